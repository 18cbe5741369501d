# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which experts were cached when, and how long each stayed: a trace replayed, to be looked at.

The decisions are the engine's own code's (:func:`simulate`). It tells which uses missed, not what
the cache held; that follows from the uses and the rule of eviction, and is followed here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mobile.routing.quality import Cache
from moe_mobile.routing.simulation import Simulation, simulate
from moe_mobile.routing.trace import Trace

__all__ = ["Residency", "follow", "residency"]

_Key = tuple[int, int]
_FORGOTTEN = 1e-300


@dataclass(frozen=True, eq=False)
class Residency:
    """What a cache held while a text was decoded.

    Attributes:
        routing: as it came out.
        cached: bool [tokens, layers, experts]: in the cache once the token was through.
        lifetimes: tokens from load to eviction, of every eviction.
        staying: experts that were cached when their sequence ended.
        tokens: that were decoded; ``sequences``: where each begins among them.
        loads_per_token_layer: as replayed.
    """

    routing: str
    cached: NDArray[np.bool_]
    lifetimes: tuple[int, ...]
    staying: int
    sequences: tuple[int, ...]
    loads_per_token_layer: float

    @property
    def tokens(self) -> int:
        return len(self.cached)

    @property
    def share(self) -> NDArray[np.float64]:
        """[layers, experts]: of the tokens, those after which the expert was cached."""
        return np.asarray(self.cached.mean(axis=0))


def residency(trace: Trace, cache: Cache) -> Residency:
    """The trace's sequences, each decoded from an empty cache."""
    cached = np.zeros(trace.router_logits.shape, np.bool_)
    lifetimes: list[int] = []
    staying = loads = 0
    routing = ""
    for span in trace.spans():
        result = simulate(
            trace.router_logits[span],
            trace.top_k,
            cache.capacity,
            cache.routing,
            cache.eviction,
            pool=cache.pool,
            layers=trace.layers,
            scoring=trace.scoring,
        )
        routing = result.routing
        loads += result.loads
        staying += follow(result, cache, cached[span], lifetimes)
    tokens, layers = trace.router_logits.shape[:2]
    return Residency(
        routing=routing,
        cached=cached,
        lifetimes=tuple(lifetimes),
        staying=staying,
        sequences=tuple(span.start for span in trace.spans()),
        loads_per_token_layer=loads / (tokens * layers),
    )


def follow(
    result: Simulation, cache: Cache, cached: NDArray[np.bool_], lifetimes: list[int]
) -> int:
    """Fill ``cached`` and append lifetimes for a sequence that began with nothing cached.

    Returns the number of experts that were cached at the end.
    """
    layers, experts = cached.shape[1:]
    if cache.pool == "global":
        pools = [_Pool(cache.capacity * layers, cache.eviction, cached)] * layers
    else:
        pools = [_Pool(cache.capacity, cache.eviction, cached) for _ in range(layers)]
    now = np.zeros((layers, experts), np.bool_)
    loaded: dict[_Key, int] = {}
    selected = result.selected.tolist()
    dropped = result.dropped.tolist()
    for token, (of_token, gone) in enumerate(zip(selected, dropped, strict=True)):
        for layer in range(layers):
            ranked = zip(of_token[layer], gone[layer], strict=True)
            kept = [(layer, expert) for expert, left_out in ranked if not left_out]
            pool = pools[layer]
            coming = [key for key in kept if key not in pool]
            for key in pool.access(kept, len(coming)):
                now[key] = False
                lifetimes.append(token - loaded.pop(key))
            for key in coming:
                now[key] = True
                loaded[key] = token
        cached[token] = now
    return len(loaded)


class _Pool:
    """The experts of a cache, by docs/routing/eviction.md."""

    def __init__(self, capacity: int, eviction: str, cached: NDArray[np.bool_]) -> None:
        self._capacity = capacity
        name, _, decay = eviction.partition(":")
        self._decay = float(decay or 0.99) if name == "lfu" else None
        self._by_use: OrderedDict[_Key, None] = OrderedDict()  # least recent first
        self._counts = np.zeros(cached.shape[1:])

    def __contains__(self, key: _Key) -> bool:
        return key in self._by_use

    def access(self, kept: Sequence[_Key], coming: int) -> list[_Key]:
        """Use experts in rank order, of which ``coming`` are not there. Returns who leaves."""
        leaving = [self._evict(kept) for _ in range(len(self._by_use) + coming - self._capacity)]
        for key in reversed(kept):
            self._by_use[key] = None
            self._by_use.move_to_end(key)
        if self._decay is not None:
            self._count(kept, self._decay)
        return leaving

    def _evict(self, kept: Sequence[_Key]) -> _Key:
        others = (key for key in self._by_use if key not in kept)
        # The first, least recent one of equals.
        victim = next(others) if self._decay is None else min(others, key=self._count_of)
        del self._by_use[victim]
        return victim

    def _count_of(self, key: _Key) -> float:
        return float(self._counts[key])

    def _count(self, kept: Sequence[_Key], decay: float) -> None:
        self._counts *= decay
        self._counts[self._counts < _FORGOTTEN] = 0
        for key in kept:
            self._counts[key] += 1
