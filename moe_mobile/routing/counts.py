# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a routing did with a cache, counted."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mobile.base.routings import is_lossy


@dataclass(frozen=True)
class Counts:
    """The totals of one routing with one cache over all tokens that were decoded.

    Attributes:
        routing: as it came out, with ``auto`` and ``J`` settled; ``requested`` is what was given.
        note: why the method is off, else "".
        eviction, pool, capacity: of the cache; ``capacity`` in experts per layer.
        layers, experts, top_k: of the model. A token uses layers x top_k slots, of relu
            routers at most.
        tokens: that were decoded.
        hits: slots that found their expert in the cache.
        misses: slots that did not; ``dropped``: of them, those that were not read (drop-cold).
        changed: slots whose expert exact routing would not have selected.
    """

    routing: str
    requested: str
    note: str
    eviction: str
    pool: str
    capacity: int
    layers: int
    experts: int
    top_k: int
    tokens: int = 0
    hits: int = 0
    misses: int = 0
    dropped: int = 0
    changed: int = 0

    @property
    def lossy(self) -> bool:
        """Whether the routing may change what the model computes."""
        return is_lossy(self.routing)

    @property
    def slots(self) -> int:
        return self.hits + self.misses

    @property
    def loads(self) -> int:
        """Misses that were read."""
        return self.misses - self.dropped

    @property
    def hit_rate(self) -> float:
        return 1 - self.misses / max(1, self.slots)

    @property
    def loads_per_token_layer(self) -> float:
        return self.loads / (self.tokens * self.layers)

    @property
    def changed_share(self) -> float:
        return self.changed / max(1, self.slots)

    @property
    def dropped_share(self) -> float:
        return self.dropped / max(1, self.slots)
