# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Models whose numbers do not fit float32: each reader says so, and nobody gets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from moe_mobile import Engine
from moe_mobile.errors import RuntimeFailedError
from moe_mobile.export import export_bundle
from moe_mobile.quality.score import Cache, measure_quality
from moe_mobile.quality.transformers_source import TransformersSource
from moe_mobile.runner import Runner
from tests.bundles import FEW_ROWS
from tests.tiny import write_checkpoint

TOKENS = [5, 9, 3, 12, 7]
HEAD = "the logit of token [0-9]+ is (NaN|infinity|-infinity)"
ROUTER = "the router's logit of expert [0-9]+ of layer 1 is (NaN|infinity|-infinity)"


def _overflowing(folder: Path, part: str) -> Path:
    """A checkpoint whose weights with this part in their names are as large as float32 allows."""
    path = write_checkpoint(folder, "mixtral") / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if part in name:
            tensors[name] = tensors[name] / tensors[name].abs().max() * 3e38
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.fixture(
    scope="module",
    params=["lm_head", "layers.1.block_sparse_moe.experts"],
)
def broken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint and its bundle."""
    folder = tmp_path_factory.mktemp("overflow")
    source = _overflowing(folder / "model", request.param)
    return source, export_bundle(source, folder / "bundle", "fp32", max_batch=FEW_ROWS)


def _is_told(bundle: Path, cause: str, read: Callable[[], object]) -> None:
    with pytest.raises(RuntimeFailedError, match=cause) as error:
        read()
    assert error.value.file == str(bundle)
    assert "overflow float32" in str(error.value.remedy)


def test_no_reader_of_logits_gets_what_is_not_finite(broken: Any) -> None:
    _, bundle = broken
    with Engine(bundle, threads=1) as engine:
        for read in (
            lambda: engine.generate(TOKENS, 2).result(),
            lambda: engine.generate(TOKENS, 2, temperature=0.8).result(),
            lambda: engine.score(TOKENS),
            lambda: engine.nll(TOKENS),
        ):
            _is_told(bundle, HEAD, read)


def test_the_runner_tells_it_of_scores_and_measurements(broken: Any) -> None:
    _, bundle = broken
    with Runner() as runner:
        runner.request("open", bundle=str(bundle), settings={"threads": 1})
        _is_told(bundle, HEAD, lambda: runner.request("score", token_ids=TOKENS))
        _is_told(bundle, HEAD, lambda: runner.request("bench", n_prompt=0, n_gen=1))


def test_a_router_that_overflows_is_named(tmp_path: Path) -> None:
    source = _overflowing(tmp_path / "model", "layers.1.block_sparse_moe.gate")
    bundle = export_bundle(source, tmp_path / "bundle", "fp32", max_batch=FEW_ROWS)
    with Engine(bundle, threads=1) as engine:
        _is_told(bundle, ROUTER, lambda: engine.score(TOKENS))
        _is_told(bundle, ROUTER, lambda: engine.generate(TOKENS, 2))
    with pytest.raises(RuntimeFailedError, match="router's logit of layer 1 is NaN or inf"):
        measure_quality(TransformersSource(str(source)), TOKENS, Cache("exact", 4))


def test_transformers_scores_of_it_are_refused(broken: Any) -> None:
    source, _ = broken
    with pytest.raises(RuntimeFailedError, match="a logit of a token is NaN or inf") as error:
        measure_quality(TransformersSource(str(source)), TOKENS, Cache("exact", 4))
    assert error.value.file == str(source)
