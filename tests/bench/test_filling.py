# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""About how many tokens fill a cache, from how full it was."""

from __future__ import annotations

import random

import pytest

from moe_mobile.bench.filling import has_stopped, tokens_to_fill


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
    assert not has_stopped([])
    assert not has_stopped([0.0, 0.5])
    assert has_stopped([0.0, 0.5, 1.0])
    assert not has_stopped([0.0, *[0.97] * 10])
    assert has_stopped([0.0, *[0.97] * 11])
