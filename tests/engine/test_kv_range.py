# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Keys and values that float16 cannot hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from moe_mobile import Engine, QuantizationSettings
from moe_mobile.errors import RuntimeFailedError
from moe_mobile.export import export_bundle
from tests.bundles import FEW_ROWS
from tests.tiny import write_checkpoint

TOKENS = [5, 9, 3, 12, 7, 4, 8, 6]


def _with_large(part: str, folder: Path) -> Path:
    """A checkpoint whose second layer has keys or values of about a million."""
    path = write_checkpoint(folder, "mixtral") / "model.safetensors"
    tensors = load_file(path)
    tensors[f"model.layers.1.self_attn.{part}_proj.weight"] *= 3e6
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize("part", ["k", "v"])
def test_what_float16_cannot_hold_is_an_error_and_float32_holds_it(
    part: str, tmp_path: Path
) -> None:
    source = _with_large(part, tmp_path / "model")
    half = export_bundle(source, tmp_path / "half", "8da8w", max_batch=FEW_ROWS)
    with Engine(half, threads=1) as engine:
        with pytest.raises(
            RuntimeFailedError, match="of layer 1 is not finite, or beyond"
        ) as error:
            engine.score(TOKENS)
        assert "the export's setting `kv_dtype`" in str(error.value.remedy)
        assert error.value.file == str(half / "bundle.json")
        with pytest.raises(RuntimeFailedError, match="of layer 1"):
            engine.generate(TOKENS, 2)
    formats = QuantizationSettings("8da8w", kv_dtype="float32")
    float32 = export_bundle(source, tmp_path / "float", formats, max_batch=FEW_ROWS)
    with Engine(float32, threads=1) as engine:
        assert np.isfinite(engine.score(TOKENS)).all()
        assert len(engine.generate(TOKENS, 2, ignore_eos=True).result().token_ids) == 2
