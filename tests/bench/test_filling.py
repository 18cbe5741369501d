# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""About how many tokens fill a cache, from how full it was."""

from __future__ import annotations

import random

import pytest

from moe_mobile.bench.filling import MOST_TOKENS, has_stopped, tokens_to_fill


@pytest.mark.parametrize("slots", [192, 96, 48])
def test_random_routing_is_estimated_from_two_observations(slots: int) -> None:
    """Top-4 of 32 experts in 6 layers, each as likely: the estimate against what is drawn."""
    draw = random.Random(slots)
    experts, used, fills = 192, set[tuple[int, int]](), [0.0]
    tokens = 0
    while len(used) < slots:
        for layer in range(6):
            used |= {(layer, expert) for expert in draw.sample(range(32), 4)}
        tokens += 1
        fills.append(min(len(used) / slots, 1.0))
    middle = max(index for index, fill in enumerate(fills) if fill < 0.7)
    seen = [(middle // 2, fills[middle // 2]), (middle, fills[middle])] if middle > 1 else [
        (middle, fills[middle])
    ]  # fmt: skip
    about = tokens_to_fill(seen, {"slots": slots, "num_experts": experts})
    assert about is not None
    assert tokens / 2 < about < tokens * 2


def test_nothing_is_estimated_from_nothing() -> None:
    plan = {"slots": 48, "num_experts": 192}
    assert tokens_to_fill([(0, 0.0)], plan) is None
    assert tokens_to_fill([(8, 0.0), (16, 0.0)], plan) is None
    assert tokens_to_fill([(8, 0.5)], {"slots": 0, "num_experts": 0}) is None


def test_a_warm_up_ends_when_the_cache_is_full_or_grows_no_more() -> None:
    assert not has_stopped([], 128)
    assert not has_stopped([0.0, 0.5], 128)
    assert has_stopped([0.0, 0.5, 1.0], 128)
    assert not has_stopped([0.0, *[0.97] * 8], 128)
    assert has_stopped([0.0, *[0.97] * 9], 128)
    growing = [run / 2000 for run in range(2000)]
    assert not has_stopped([*growing, *[0.9999] * 2000], 1)
    assert has_stopped([*growing, *[0.9999] * 2001], 1)
    assert has_stopped([run / MOST_TOKENS for run in range(MOST_TOKENS)], 1)


@pytest.mark.parametrize("tokens", [1, 4, 16, 128])
def test_short_runs_fill_a_cache_as_long_ones_do(tokens: int) -> None:
    """Top-4 of 32 experts in 6 layers, some of them ten times as likely as others."""
    draw, used, fills = random.Random(1), set[tuple[int, int]](), [0.0]
    names = [*range(32), *[*range(16)] * 9]
    while not has_stopped(fills, tokens):
        for layer in [*range(6)] * tokens:
            used |= {(layer, draw.choice(names)) for _ in range(4)}
        fills.append(len(used) / 192)
    assert fills[-1] == 1
