# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic traces: distributed as said, fitted to the rows that were published, written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import synthetic_fit
from benchmarks.synthetic_fit import ROWS, STEP, fit, measure
from moe_mobile.cli import synthetic as command
from moe_mobile.errors import UsageError
from moe_mobile.routing import synthetic
from moe_mobile.routing.synthetic import (
    CONTEXT_TOKENS,
    MODELS,
    POPULARITY,
    synthetic_logits,
    synthetic_trace,
)
from moe_mobile.routing.trace import read_trace


def test_logits_last_as_long_as_the_formula_says() -> None:
    persistence = 0.6
    logits = synthetic_logits(2, 300, [400] * 20, persistence, seed=3).astype(np.float64)
    assert abs(logits.mean()) < 0.02
    assert logits.var() == pytest.approx(1, abs=0.03)
    texts = logits.reshape(20, 400, 600)
    for lag in (1, 8, 32, 128):
        got = (texts[:, lag:] * texts[:, :-lag]).mean()
        context = (1 - POPULARITY) * math.exp(-lag / CONTEXT_TOKENS)
        assert got == pytest.approx(persistence * (POPULARITY + context), abs=0.03)
    # Of different texts, and of different layers.
    assert (texts[1:] * texts[:-1]).mean() == pytest.approx(persistence * POPULARITY, abs=0.03)
    assert (logits[:, 0] * logits[:, 1]).mean() == pytest.approx(0, abs=0.02)


def test_a_layer_and_a_beginning_are_always_the_same() -> None:
    whole = synthetic_logits(3, 8, [20, 30], 0.5, seed=1)
    np.testing.assert_array_equal(synthetic_logits(2, 8, [20, 30], 0.5, seed=1), whole[:, :2])
    np.testing.assert_array_equal(synthetic_logits(3, 8, [20, 7], 0.5, seed=1), whole[:27])
    assert not (synthetic_logits(3, 8, [20, 30], 0.5, seed=2) == whole).any()
    assert len(np.unique(whole)) == whole.size


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_gives_the_published_row(model: synthetic.SyntheticModel, seed: int) -> None:
    row = ROWS[model.name][0]
    got = measure(model, row, seed=seed)
    assert got.misses == pytest.approx(row.misses, abs=0.01)
    if row.lifetime is not None:
        assert got.lifetime == pytest.approx(row.lifetime, abs=1)


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_the_fit_gives_the_committed_values(model: synthetic.SyntheticModel) -> None:
    # Another numpy may draw other numbers.
    assert fit(model).persistence == pytest.approx(model.persistence, abs=5 * STEP)


def test_the_rows_that_were_not_fitted_are_near() -> None:
    model = MODELS["Qwen3-30B-A3B"]
    for row in ROWS[model.name][1:]:
        assert measure(model, row, sequences=2).misses == pytest.approx(row.misses, abs=0.04)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["synthetic", *map(str, arguments)])
        return command.main()

    path = tmp_path / "trace"
    sizes = ["--tokens", 6, "--sequences", 2, "--prompt-tokens", 2]
    assert run("Qwen3-30B-A3B", "-o", path, "--layers", 3, *sizes) == 0
    trace = read_trace(path)
    assert trace.router_logits.shape == (12, 3, 128)
    assert (trace.sequences, trace.prompt_tokens, trace.layers) == ((6, 6), 2, (0, 1, 2))
    assert (trace.top_k, trace.router.renormalize, trace.source) == (8, True, "synthetic")
    assert trace.source_id == "Qwen3-30B-A3B, persistence 0.65, seed 0"
    same = synthetic_trace(MODELS["Qwen3-30B-A3B"], [6, 6], layers=3)
    np.testing.assert_array_equal(same.router_logits, trace.router_logits)
    assert run("Qwen1.5-MoE-A2.7B", "-o", path, "--tokens", 1) == 0
    trace = read_trace(path)
    assert trace.router_logits.shape == (1, 24, 60)
    assert (trace.top_k, trace.router.renormalize) == (4, False)
    capsys.readouterr()
    before = path.read_bytes()
    for wrong, setting in (
        (["--layers", 25], "--layers"),
        (["--tokens", 0], "--tokens"),
        (["--sequences", 0], "--tokens"),
        (["--sequences", 10**12], "--sequences"),
        (["--tokens", 10**7], "--tokens"),
        (["--seed", -1], "--seed"),
        (["--tokens", 4, "--prompt-tokens", 4], "--prompt-tokens"),
    ):
        assert run("Qwen1.5-MoE-A2.7B", "-o", path, *wrong) == UsageError.exit_code
        told = capsys.readouterr().err
        assert told.startswith(f"error: {setting}: ")
        assert "\n  what to do: " in told
    assert path.read_bytes() == before
    assert run("Qwen1.5-MoE-A2.7B", "-o", tmp_path) == UsageError.exit_code
    assert f"error: {tmp_path}: " in capsys.readouterr().err
    assert run("Qwen3-30B-A3B") == UsageError.exit_code  # without --out


def test_the_report_tells_fitted_rows_from_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["synthetic_fit", "Qwen1.5-MoE-A2.7B"])
    assert synthetic_fit.main() == 0
    printed = capsys.readouterr().out
    assert "fitted to: arXiv 2412.00099" in printed
    assert "published 35.0%; lifetime" in printed
