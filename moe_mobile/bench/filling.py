# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How full the cache was when repetitions began, and how many tokens fill it at least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from moe_mobile.bench.row import BenchTest

FULL = "full"
"""A warm-up that runs until the cache is full."""

MOST_RUNS = 1000
"""Of a warm-up whose runs are counted."""

MOST_TOKENS = 100_000
"""Of a warm-up until the cache is full."""

_STILL = 1024
"""Tokens that add no expert, at least as many as came before: more would not add one either."""


def has_stopped(fills: Sequence[float], tokens: int) -> bool:
    """Whether a warm-up until the cache is full has done what it can.

    Args:
        fills: how full the cache was before each run.
        tokens: of each run. Runs may be as short as one token, so they say nothing of how much was
            tried.
    """
    if not fills:
        return False
    if fills[-1] >= 1 or len(fills) * tokens >= MOST_TOKENS:
        return True
    grown = fills.index(max(fills)) * tokens  # when the last expert had come
    return (len(fills) - 1) * tokens - grown >= max(_STILL, grown)


def filling_flags(
    test: BenchTest, facts: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]
) -> list[str]:
    """If a cache that should be warm has room left, its misses come from filling it."""
    if not test.n_gen or facts["config"].get("initial_cache") != "warm":
        return []
    fill = min(float(run["cache_fill"]) for run in runs)
    if fill >= 1:
        return []
    said = f"the cache was {math.floor(100 * fill)} % full when a repetition began"
    warmed = int(runs[0]["warmup_tokens"])
    if facts["regime"]["warmup"] == FULL:
        return [f"{said}: {warmed:,} tokens of warm-up did not fill it"]
    seen = [(warmed, float(runs[0]["cache_fill"]))]
    if facts["regime"]["order"] == "sequential":  # in one process, one after the other
        seen = [
            (warmed + number * test.positions, float(run["cache_fill"]))
            for number, run in enumerate(runs)
        ]
    tokens = tokens_to_fill(seen, facts["plan"])
    if tokens is None:
        return [f"{said}: more warm-up runs, or warmup {FULL}, fill it"]
    return [
        f"{said}, after {warmed:,} tokens of warm-up: filling it takes at least about "
        f"{tokens:,} tokens, more if experts are used unevenly; warmup {FULL} runs as many as it "
        "takes"
    ]


def tokens_to_fill(seen: Sequence[tuple[int, float]], plan: Mapping[str, Any]) -> int | None:
    """Estimates how many tokens fill an empty cache at least; None if too little was seen.

    Were all experts used as often, a token would find one that was not used yet with a chance that
    falls as their share does. So that share would fall exponentially, as it did between the last
    two observations. The experts of a trained model are used unevenly: the last ones take longer.

    Args:
        seen: tokens that were run, and how full the cache was then, in this order.
        plan: has ``slots`` and ``num_experts``.
    """
    slots, experts = plan["slots"], plan["num_experts"]
    if not 0 < slots <= experts:
        return None
    cached = slots / experts
    points = [(0, 0.0), *seen]
    grown = [
        (earlier, later)
        for earlier, later in itertools.pairwise(points)
        if later[0] > earlier[0] and 1 > later[1] > earlier[1]
    ]
    if not grown:
        return None
    (before, low), (after, high) = grown[-1]
    left = [math.log(1 - cached * fill) for fill in (low, high)]
    # Of all experts the last one counts as half: its share would never be 0.
    end = math.log(max(1 - cached, 0.5 / experts))
    tokens = after + (left[1] - end) * (after - before) / (left[0] - left[1])
    step: int = 10 ** max(len(str(math.ceil(tokens))) - 2, 0)  # two digits say enough
    return math.ceil(tokens / step) * step
