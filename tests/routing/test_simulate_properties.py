# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What holds for every trace, whatever the simulator decides."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from moe_mobile.routing import simulate

Floats = NDArray[np.float32]

traces = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 30), st.integers(1, 2), st.integers(1, 12)),
    elements=st.one_of(
        st.integers(-3, 3).map(float),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
)


def _sizes(data: st.DataObject, logits: Floats) -> tuple[int, int]:
    top_k = data.draw(st.integers(1, logits.shape[2]))
    return top_k, data.draw(st.integers(top_k, logits.shape[2]))


@settings(max_examples=60)
@given(traces, st.data(), st.sampled_from(["layer", "global"]))
def test_settings_that_change_nothing_equal_exact(
    logits: Floats, data: st.DataObject, pool: str
) -> None:
    top_k, capacity = _sizes(data, logits)
    exact = simulate(logits, top_k, capacity, "exact", pool=pool)
    for routing in (
        "cache-prior:0,J=0",
        f"cache-prior:0.7,J={top_k}",
        f"max-rank:{top_k},J=0",
        f"max-rank:1,J={top_k}",
        f"cumulative:0.9,J={top_k}",
        "cache-prior:0.7,J=0,first=2",
        "exact+drop-cold:0",
    ):
        got = simulate(logits, top_k, capacity, routing, pool=pool)
        np.testing.assert_array_equal(got.selected, exact.selected)
        np.testing.assert_array_equal(got.missed, exact.missed)
        assert got.changed == 0


@settings(max_examples=100)
@given(traces, st.data(), st.sampled_from(["layer", "global"]))
def test_belady_never_misses_more(logits: Floats, data: st.DataObject, pool: str) -> None:
    top_k, capacity = _sizes(data, logits)
    tokens, layers, experts = logits.shape
    prompt = data.draw(st.integers(0, tokens - 1))
    profile = [data.draw(st.permutations(range(experts)))] * layers
    initial: Any = data.draw(st.sampled_from(["cold", "prompt", profile]))
    misses = {
        eviction: simulate(
            logits,
            top_k,
            capacity,
            "exact",
            eviction,
            pool=pool,
            prompt_tokens=prompt,
            initial_cache=initial,
        ).misses
        for eviction in ("belady", "lru", "lfu", "lfu:0.5")
    }
    assert misses["belady"] == min(misses.values())


@settings(max_examples=60)
@given(traces, st.data(), st.sampled_from(["layer", "global"]))
def test_sequences_are_those_that_they_would_be_alone(
    logits: Floats, data: st.DataObject, pool: str
) -> None:
    top_k, capacity = _sizes(data, logits)
    cut = data.draw(st.integers(0, len(logits) - 1))
    routing = data.draw(st.sampled_from(["cache-prior:0.3,J=0", "exact+drop-cold:1"]))
    parts = [part for part in (logits[:cut], logits[cut:]) if len(part)]
    got = simulate(logits, top_k, capacity, routing, pool=pool, sequences=[len(p) for p in parts])
    alone = [simulate(part, top_k, capacity, routing, pool=pool) for part in parts]
    np.testing.assert_array_equal(got.missed, np.concatenate([one.missed for one in alone]))
    np.testing.assert_array_equal(got.selected, np.concatenate([one.selected for one in alone]))
    for name in ("hits", "misses", "loads", "changed", "evictions", "decoded_tokens"):
        assert getattr(got, name) == sum(getattr(one, name) for one in alone)


@settings(max_examples=60)
@given(traces, st.data(), st.sampled_from(["layer", "global"]))
def test_a_prompt_changes_only_the_cache(logits: Floats, data: st.DataObject, pool: str) -> None:
    top_k, capacity = _sizes(data, logits)
    prompt = data.draw(st.integers(0, len(logits) - 1))
    cache: dict[str, Any] = {"pool": pool, "prompt_tokens": prompt}
    # Exact routing remembers nothing: the cache is all that a prompt can change.
    whole = simulate(logits, top_k, capacity, "exact", pool=pool)
    rest = simulate(logits[prompt:], top_k, capacity, "exact", pool=pool)
    warm = simulate(logits, top_k, capacity, "exact", initial_cache="prompt", **cache)
    cold = simulate(logits, top_k, capacity, "exact", **cache)
    np.testing.assert_array_equal(warm.missed, whole.missed)
    np.testing.assert_array_equal(cold.missed[prompt:], rest.missed)
    assert (warm.misses, cold.misses) == (whole.missed[prompt:].sum(), rest.misses)
    assert cold.missed[:prompt].all()
    # A prompt is exact whatever the method.
    lossy = simulate(logits, top_k, capacity, "cache-prior:2,J=0", initial_cache="prompt", **cache)
    np.testing.assert_array_equal(lossy.selected[:prompt], whole.selected[:prompt])
    np.testing.assert_array_equal(lossy.missed[:prompt], whole.missed[:prompt])


def test_begins_with_the_first_of_a_profile() -> None:
    logits = np.random.default_rng(5).standard_normal((40, 2, 8), dtype=np.float32)
    order = np.array([[3, 1, 4, 0, 5, 2, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0]])
    for size in range(2, 9):
        got = simulate(logits, 2, size, "exact", initial_cache=order.tolist())
        first = [not set(got.selected[0, i]) - set(order[i, :size]) for i in range(2)]
        assert (~got.missed[0].any(axis=1)).tolist() == first
    assert got.misses == 0


@settings(max_examples=60)
@given(
    traces,
    st.data(),
    st.sampled_from(["exact", "cache-prior:0.3,J=0", "cumulative:0.8,J=0+drop-cold:1"]),
    st.sampled_from(["lru", "lfu"]),
)
def test_never_holds_more_than_the_capacity(
    logits: Floats, data: st.DataObject, routing: str, eviction: str
) -> None:
    top_k, capacity = _sizes(data, logits)
    got = simulate(logits, top_k, capacity, routing, eviction)
    assert got.loads - got.evictions <= capacity * logits.shape[1]
    # Whatever is hit next must have been there all the time since its use before.
    for layer in range(logits.shape[1]):
        held: set[int] = set()
        for token in reversed(range(len(logits))):
            slots = zip(got.selected[token, layer], got.missed[token, layer], strict=True)
            needed = {int(expert): bool(missed) for expert, missed in slots}
            held = {expert for expert in held if not needed.get(expert, False)}
            held |= {expert for expert, missed in needed.items() if not missed}
            assert len(held) <= capacity
    again = simulate(logits, top_k, capacity, routing, eviction)
    np.testing.assert_array_equal(got.selected, again.selected)
    np.testing.assert_array_equal(got.missed, again.missed)
    np.testing.assert_array_equal(got.dropped, again.dropped)
