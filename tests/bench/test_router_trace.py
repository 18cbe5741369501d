# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A trace can replace a bundle's routers only if they have the same shape."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_mobile.base.router import SCORES, RouterSpec
from moe_mobile.bench.router_trace import open_router_trace
from moe_mobile.bundle import Manifest
from moe_mobile.errors import UsageError
from tests.bundle.samples import write_sample
from tests.cli.program import failed
from tests.routing import traces


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, Manifest]:
    manifest, _ = write_sample(tmp_path / "bundle", seed=10)
    return tmp_path / "bundle", manifest


def write(path: Path, manifest: Manifest, **changes: Any) -> Path:
    layers = len(manifest.moe_layers)
    shape = (3, changes.pop("depth", layers), changes.pop("experts", manifest.moe.num_experts))
    logits = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    members: dict[str, Any] = {
        "layers": tuple(range(50, 50 + shape[1])),  # other numbers than the bundle's
        "top_k": manifest.moe.top_k,
        "router": RouterSpec(manifest.moe.router.score),
        "model": "another",
        "source": "synthetic",
    }
    return traces.write(path, logits, **members | changes)


def test_another_models_trace_of_the_same_shape_stands_for_the_routers(
    bundle: tuple[Path, Manifest], tmp_path: Path
) -> None:
    path = write(tmp_path / "fits", bundle[1])
    trace = open_router_trace(path, manifest=bundle[1], positions=3)
    assert trace.facts["name"] == "fits"
    assert (trace.facts["source"], trace.facts["tokens"]) == ("synthetic", 3)
    sent = np.frombuffer(base64.b64decode(trace.request(1, 2)), "<f4")
    np.testing.assert_array_equal(sent, trace.logits[[2, 0]].ravel())


@pytest.mark.parametrize("change", ["depth", "experts", "top_k", "router"])
def test_another_shape_is_refused(
    change: str, bundle: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = bundle
    moe = manifest.moe
    layers = len(manifest.moe_layers)
    name, there, other = {
        "depth": ("number of layers", layers, layers + 1),
        "experts": ("number of experts", moe.num_experts, moe.num_experts + 1),
        "top_k": ("top_k", moe.top_k, moe.top_k - 1),
        "router": ("router", moe.router.score, "another"),
    }[change]
    if change == "router":
        other = next(score for score in SCORES if score != there)
    value = RouterSpec(str(other)) if change == "router" else other
    path = write(tmp_path / "other", manifest, **{change: value})
    told = f"does not go with the bundle: the {name} is {other}, there {there}"
    with pytest.raises(UsageError, match=told) as caught:
        open_router_trace(path, manifest=manifest, positions=1)
    assert caught.value.file == str(path)
    error = failed(2, "bench", folder, "-p", 0, "-n", 1, "--router-trace", path)
    assert error["cause"] == caught.value.cause


def test_a_trace_too_short_is_refused(bundle: tuple[Path, Manifest], tmp_path: Path) -> None:
    path = write(tmp_path / "short", bundle[1])
    with pytest.raises(UsageError, match="has 3 tokens, and a test needs 4"):
        open_router_trace(path, manifest=bundle[1], positions=4)
