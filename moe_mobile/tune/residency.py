# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which experts were cached when, and how long each stayed: a trace replayed, to be looked at.

The decisions and the cache are the engine's own code's (:class:`moe_mobile.routing.RoutingRun`),
looked at after every layer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.routings import marked
from moe_mobile.quality.score import Cache, open_run
from moe_mobile.routing.trace import Trace


@dataclass(frozen=True, eq=False)
class Residency:
    """What a cache held while a text was decoded.

    Attributes:
        routing: as resolved; ``precision``: of the experts, which the replay does not see.
        cached: bool [tokens, layers, experts]: in the cache once the token was through.
        lifetimes: tokens from load to eviction, of every eviction.
        staying: experts that were cached when their sequence ended.
        tokens: that were decoded; ``sequences``: where each begins among them.
        loads_per_token_layer: as replayed.
    """

    routing: str
    precision: str
    cached: NDArray[np.bool_]
    lifetimes: tuple[int, ...]
    staying: int
    sequences: tuple[int, ...]
    loads_per_token_layer: float

    @property
    def marked(self) -> str:
        """What it is of, for people."""
        return marked(self.routing, self.precision)

    @property
    def tokens(self) -> int:
        return len(self.cached)

    @property
    def share(self) -> NDArray[np.float64]:
        """[layers, experts]: of the tokens, those after which the expert was cached."""
        return np.asarray(self.cached.mean(axis=0))


def residency(trace: Trace, cache: Cache) -> Residency:
    """The trace's sequences, each decoded from an empty cache, as if in one precision."""
    tokens, layers, experts = trace.router_logits.shape
    run = open_run(trace.facts, dataclasses.replace(cache, precision="full"))
    cached = np.zeros((tokens, layers, experts), np.bool_)
    lifetimes: list[int] = []
    staying = 0
    for span in trace.spans():
        run.reset()
        before = run.cached()
        loaded = np.zeros((layers, experts), np.int64)  # at which token
        for token in range(span.start, span.stop):
            for layer in range(layers):
                run.route(layer, trace.router_logits[token : token + 1, layer])
                # A cache for all layers evicts from any of them.
                now = run.cached()
                lifetimes += (token - loaded[before & ~now]).tolist()
                loaded[now & ~before] = token
                before = now
            cached[token] = before
        staying += int(before.sum())
    return Residency(
        routing=run.routing,
        precision=cache.precision,
        cached=cached,
        lifetimes=tuple(lifetimes),
        staying=staying,
        sequences=tuple(span.start for span in trace.spans()),
        loads_per_token_layer=run.totals().loads / (tokens * layers),
    )
