# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The script that exports runs as it stands, for each family."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from moe_mobile.bundle import read_manifest, verify_bundle
from tests.bundles import FEW_ROWS, CheckpointMaker
from tests.tiny import FAMILIES

SCRIPT = Path(__file__).resolve().parents[2] / "export_scripts" / "export.py"

FEW = ("--max-batch", str(FEW_ROWS))
# Mostly of programs that other tests have lowered already.
OPTIONS: dict[str, tuple[list[str], tuple[str, str]]] = {
    "mixtral": (["--quant", "fp32"], ("fp32", "fp32")),
    "qwen2_moe": (["--quant", "8da4w", "--dense", "fp32", *FEW], ("8da4w", "fp32")),
    "qwen3_moe": (["--quant", "fp32", "--dense", "fp32", *FEW], ("fp32", "fp32")),
    "olmoe": (["--quant", "fp32", *FEW], ("fp32", "fp32")),
    "lfm2_moe": (["--quant", "fp32", *FEW], ("fp32", "fp32")),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_script_exports(
    family: str,
    checkpoint: CheckpointMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options, (experts, dense) = OPTIONS[family]
    out = tmp_path / "bundle"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(checkpoint(family)), str(out), *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    captured = capsys.readouterr()
    assert captured.out == f"written: {out}\n"
    assert "done" in captured.err
    verify_bundle(out)
    manifest = read_manifest(out)
    assert manifest.model.family == family
    assert (manifest.quantization.experts, manifest.quantization.dense) == (experts, dense)
    assert manifest.max_batch == (FEW_ROWS if "--max-batch" in options else 256)
