# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Streaming changes no bit: logits do not depend on budget, residency or read lanes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.perplexity import heldout_tokens
from moe_mobile import Engine
from tests.engine.native import logits_after_prompt, same_bits
from tests.oracles.logits import Logits

RESIDENCIES = ("slots", "programs", "resident")
LANES = (1, 2, 4)
SCORED, PROMPT, DECODED = 16, 32, 6


@dataclass(frozen=True)
class Run:
    """What one engine computed, and (hits, misses) of each step that got it there."""

    scored: Logits
    generated: Logits
    score_steps: list[tuple[int, int]]
    prompt_steps: list[tuple[int, int]]
    decode_steps: list[tuple[int, int]]


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    """The beginning of the held-out text, and its end, as token ids."""
    ids = heldout_tokens()
    return ids[:SCORED] + ids[-PROMPT:]


@pytest.fixture(scope="module")
def runs(demo: Path, tokens: list[int]) -> dict[tuple[str, str, int], Run]:
    """One run per (residency, cache, lanes)."""
    cycle = cycle_budget(demo)
    budgets = (cycle, "25%", "50%", "75%", "100%")
    keys = [
        *product(("slots", "programs"), budgets, LANES),
        *product(("resident",), ("100%",), LANES),
    ]
    return {key: run(demo, tokens, *key) for key in keys}


def cycle_budget(demo: Path) -> str:
    """The budget of exactly one token cycle."""
    with Engine(demo, threads=1) as engine:
        plan = engine.info.plan
    assert plan.token_cycle_slots < 0.25 * plan.num_experts
    return f"{plan.token_cycle_slots * plan.slot_bytes}B"


def run(demo: Path, tokens: list[int], residency: str, cache: str, lanes: int) -> Run:
    with Engine(demo, cache, residency=residency, lanes=lanes, threads=1) as engine:
        assert engine.info.settings.reading.residency == residency
        assert engine.info.fallbacks == ()
        scored = engine.score(tokens[:SCORED])
        score_steps = steps(engine, "decode")
        generated = logits_after_prompt(engine, tokens[SCORED:], DECODED)
        return Run(
            scored, generated, score_steps, steps(engine, "prefill"), steps(engine, "decode")
        )


def steps(engine: Engine, phase: str) -> list[tuple[int, int]]:
    return [(s.hits, s.misses) for s in engine.stats.tokens if s.phase == phase]


@pytest.mark.parametrize("part", ["scored", "generated"])
def test_logits_are_byte_identical(runs: dict[tuple[str, str, int], Run], part: str) -> None:
    reference = getattr(runs["resident", "100%", 1], part)
    assert np.isfinite(reference).all()
    assert reference.std() > 0.5
    different = [key for key, run in runs.items() if not same_bits(getattr(run, part), reference)]
    assert different == []


def test_the_runs_did_stream(runs: dict[tuple[str, str, int], Run], demo: Path) -> None:
    """Otherwise identical logits would prove nothing."""
    with Engine(demo, threads=1) as engine:
        uses = engine.info.plan.token_cycle_slots
    for (residency, cache, _), run in runs.items():
        assert all(hits + misses == uses for hits, misses in run.score_steps)
        misses = [misses for _, misses in run.score_steps]
        if residency == "resident":
            assert sum(misses) == 0
        elif cache == "100%":
            assert 0 < sum(misses) <= 192
        else:
            assert sum(misses) > 0
        if residency != "resident":
            assert misses[0] == uses
    smallest = next(run for (name, cache, _), run in runs.items() if cache.endswith("B"))
    largest = runs["slots", "100%", 1]
    assert sum(m for _, m in smallest.score_steps) > sum(m for _, m in largest.score_steps)


@pytest.mark.parametrize("part", ["score_steps", "prompt_steps", "decode_steps"])
def test_hits_do_not_depend_on_lanes_or_residency(
    runs: dict[tuple[str, str, int], Run], part: str
) -> None:
    """Selection and eviction see the logical cache, never what has arrived."""
    for (residency, cache, lanes), run in runs.items():
        if residency != "resident":
            assert getattr(run, part) == getattr(runs["slots", cache, 1], part), (
                residency,
                cache,
                lanes,
            )
