# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A trace can replace a bundle's routers only if they have the same shape."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_mobile.base.router import RouterSpec
from moe_mobile.bench.router_trace import open_router_trace
from moe_mobile.bundle import Manifest
from moe_mobile.errors import UsageError
from moe_mobile.routing.trace import Trace, write_trace
from tests.bundle.samples import write_sample
from tests.cli.program import failed


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, Manifest]:
    manifest, _ = write_sample(tmp_path / "bundle", seed=10)
    return tmp_path / "bundle", manifest


def write(path: Path, manifest: Manifest, **changes: Any) -> Path:
    layers = sum(layer.experts is not None for layer in manifest.layers)
    shape = (3, changes.pop("depth", layers), changes.pop("experts", manifest.moe.num_experts))
    members: dict[str, Any] = {
        "router_logits": np.arange(np.prod(shape), dtype=np.float32).reshape(shape),
        "token_ids": np.zeros(3, np.uint32),
        "sequences": (3,),
        "layers": tuple(range(50, 50 + shape[1])),  # other numbers than the bundle's
        "top_k": manifest.moe.top_k,
        "router": RouterSpec(renormalize=True),
        "model": "another",
        "source": "synthetic",
        "source_id": "another s=0.5",
        "precision": "float32",
    }
    write_trace(path, Trace(**members | changes))
    return path


def test_another_models_trace_of_the_same_shape_stands_for_the_routers(
    bundle: tuple[Path, Manifest], tmp_path: Path
) -> None:
    path = write(tmp_path / "fits", bundle[1])
    trace = open_router_trace(path, manifest=bundle[1], positions=3)
    assert trace.facts["name"] == "fits"
    assert (trace.facts["source"], trace.facts["tokens"]) == ("synthetic", 3)
    sent = np.frombuffer(base64.b64decode(trace.request(1, 2)), "<f4")
    np.testing.assert_array_equal(sent, trace.logits[[2, 0]].ravel())


@pytest.mark.parametrize("change", ["depth", "experts", "top_k"])
def test_another_shape_is_refused(
    change: str, bundle: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = bundle
    moe = manifest.moe
    layers = sum(layer.experts is not None for layer in manifest.layers)
    other = {"depth": layers + 1, "experts": moe.num_experts + 1, "top_k": moe.top_k - 1}[change]
    path = write(tmp_path / "other", manifest, **{change: other})
    with pytest.raises(UsageError, match=f"{other}.*, the bundle has {layers} layers") as caught:
        open_router_trace(path, manifest=manifest, positions=1)
    assert caught.value.file == str(path)
    error = failed(2, "bench", folder, "-p", 0, "-n", 1, "--router-trace", path)
    assert error["cause"] == caught.value.cause


def test_a_trace_too_short_is_refused(bundle: tuple[Path, Manifest], tmp_path: Path) -> None:
    path = write(tmp_path / "short", bundle[1])
    with pytest.raises(UsageError, match="has 3 tokens, and a test needs 4"):
        open_router_trace(path, manifest=bundle[1], positions=4)
