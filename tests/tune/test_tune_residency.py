# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a cache held after each token agrees with what hit, missed and stayed in all."""

from __future__ import annotations

import numpy as np
import pytest

from moe_mobile.quality.score import Cache
from moe_mobile.routing import simulate
from moe_mobile.tune.residency import residency
from tests.routing.traces import a_trace


@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("eviction", ["lru", "lfu", "lfu:0.5", "lfu:0", "lfu:1"])
@pytest.mark.parametrize(
    "routing", ["exact", "cache-prior:0.3", "max-rank:4,J=0", "cumulative:0.8+drop-cold:1.2"]
)
def test_agrees_with_the_simulator(pool: str, eviction: str, routing: str) -> None:
    for seed in range(5):
        trace = a_trace(seed, 60, sequences=(25, 1, 34))
        cache = Cache(routing, 3 if seed % 2 else 5, pool, eviction)
        found = residency(trace, cache)
        evictions = lifetime = 0
        for span in trace.spans():
            result = simulate(
                trace.router_logits[span],
                trace.top_k,
                cache.capacity,
                routing,
                eviction,
                pool=pool,
                layers=trace.layers,
            )
            evictions += result.evictions
            lifetime += result.lifetime_tokens
            at_once = found.cached[span].sum(axis=(1, 2))
            assert at_once.max() <= cache.capacity * 3
            # A cache for each layer holds after a token what the next one meets.
            if pool == "layer":
                before = np.concatenate([np.zeros((1, 3, 8), bool), found.cached[span][:-1]])
                met = np.take_along_axis(before, result.selected.astype(np.int64), axis=2)
                assert (met == ~result.missed).all()
        assert (len(found.lifetimes), sum(found.lifetimes)) == (evictions, lifetime)
        assert found.sequences == (0, 25, 26)
        last = [24, 25, 59]
        assert found.staying == found.cached[last].sum()
        assert found.share.shape == (3, 8)
