# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Cache-conditional routing and expert caches, as their definitions read, one token at a time.

Written from arXiv 2412.00099, section 3, and docs/routing/, not from the engine: lists, sets and
loops, no thought for speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEVER = float("inf")


@dataclass
class Scores:
    """One token in one layer: what the model sorts and weighs with, of eligible experts only."""

    z: dict[int, float]
    mass: dict[int, float]

    @property
    def order(self) -> list[int]:
        """Best first, ties to the lower index."""
        return sorted(self.z, key=lambda expert: (-self.z[expert], expert))


@dataclass(frozen=True)
class RouterModel:
    """A model's router; see docs/routing/README.md."""

    sigmoid: bool = False
    bias: NDArray[np.float32] | None = None  # [layers, experts]
    groups: int = 1
    top_groups: int = 1
    relu: bool = False

    def scores(self, logits: NDArray[np.float32], layer: int) -> Scores:
        experts = len(logits)
        sorted_by = logits
        if self.sigmoid:
            with np.errstate(over="ignore"):
                sigmoids = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
            sorted_by = sigmoids if self.bias is None else sigmoids + self.bias[layer]
        members = np.arange(experts).reshape(self.groups, -1)
        if self.sigmoid:
            worth = [np.sort(sorted_by[group])[-2:].sum(dtype=np.float32) for group in members]
        else:
            worth = [sorted_by[group].max() for group in members]
        by_worth = sorted(range(self.groups), key=lambda group: (-worth[group], group))
        eligible = [int(e) for group in sorted(by_worth[: self.top_groups]) for e in members[group]]
        if self.relu:
            eligible = [expert for expert in eligible if logits[expert] > 0]
        z = {expert: float(sorted_by[expert]) for expert in eligible}
        if self.relu:
            return Scores(z, z)
        if self.sigmoid:
            return Scores(z, {expert: float(sigmoids[expert]) for expert in eligible})
        largest = max(z.values())
        return Scores(z, {expert: float(np.exp(z[expert] - largest)) for expert in eligible})


def running_sum(values: Sequence[float]) -> NDArray[np.float64]:
    """Sums in order: ``sum()`` and ``numpy.sum()`` round differently."""
    return np.cumsum(np.array(values, dtype=np.float64))


def max_rank(
    scores: Scores, cached: set[int], top_k: int, guaranteed: int, window: int
) -> set[int]:
    """Section 3.1, Algorithm 1: the J best, then cached experts of the M best, then the rest."""
    order = scores.order
    preferred = [expert for expert in order[:window] if expert in cached]
    chosen = order[:guaranteed]
    for expert in preferred + order:
        if len(chosen) < top_k and expert not in chosen:
            chosen.append(expert)
    return set(chosen)


def window_of(scores: Scores, p: float) -> int:
    """Section 3.2, Algorithm 2: how many of the most probable experts it takes to reach p."""
    total = running_sum(list(scores.mass.values()))[-1]
    if p == 1 or total == 0:
        return len(scores.z)
    probabilities = sorted((mass / total for mass in scores.mass.values()), reverse=True)
    reached = running_sum(probabilities) >= p
    return int(np.argmax(reached)) + 1 if reached.any() else len(probabilities)


def cache_prior(
    scores: Scores, cached: set[int], top_k: int, guaranteed: int, boost: float
) -> set[int]:
    """Section 3.3: z + lambda x Delta x m, where m marks cached experts; the J best first."""
    best = scores.order[:guaranteed]
    biased = {e: z + boost * (e in cached) for e, z in scores.z.items() if e not in best}
    return {*best, *sorted(biased, key=lambda e: (-biased[e], e))[: top_k - guaranteed]}


def cold_experts(
    scores: Scores, ranked: list[int], cached: set[int], fraction: float, softmax: bool
) -> list[bool]:
    """Which ranks drop-cold:F drops: not the best, not cached, less than F / k of the mass."""
    if not softmax:
        mass = [scores.mass[expert] for expert in ranked]
    else:
        # Ratios of softmax do not depend on what is taken from all logits.
        mass = [float(np.exp(scores.z[expert] - scores.z[ranked[0]])) for expert in ranked]
    total = running_sum(mass)[-1]
    return [
        rank > 0 and expert not in cached and mass[rank] < total * (fraction / len(ranked))
        for rank, expert in enumerate(ranked)
    ]


class Pool:
    """A cache of experts; ``eviction`` is "lru", "belady" or ("lfu", decay)."""

    def __init__(self, capacity: int, eviction: Any) -> None:
        self.capacity = capacity
        self.eviction = eviction
        self.by_use: list[Any] = []  # least recent first
        self.counts: dict[Any, float] = {}
        self.next_use: dict[Any, float] = {}

    def access(self, chosen: list[Any]) -> list[Any]:
        """Use experts in rank order; they never evict each other. Returns who left."""
        evicted = []
        coming = [key for key in chosen if key not in self.by_use]
        while len(self.by_use) + len(coming) > self.capacity:
            others = [key for key in self.by_use if key not in chosen]
            victim = min(others, key=self._merit)  # the first, least recent one of equals
            self.by_use.remove(victim)
            evicted.append(victim)
        for key in reversed(chosen):
            if key in self.by_use:
                self.by_use.remove(key)
            self.by_use.append(key)
        if isinstance(self.eviction, tuple):
            decay = self.eviction[1]
            for key in self.counts:
                self.counts[key] *= decay
                if self.counts[key] < 1e-300:
                    self.counts[key] = 0
            for key in chosen:
                self.counts[key] = self.counts.get(key, 0) + 1
        return evicted

    def _merit(self, key: Any) -> float:
        if self.eviction == "lru":
            return 0
        if self.eviction == "belady":
            return -self.next_use[key]
        return self.counts[key]


@dataclass(frozen=True)
class Setup:
    """What a trace is replayed through."""

    top_k: int
    capacity: int
    router: RouterModel
    method: str = "exact"
    value: float = 0.0  # M, p or lambda
    guaranteed: int = 0
    first: int = 0
    drop_cold: float = 0.0
    eviction: Any = "lru"
    one_pool: bool = False
    numbers: tuple[int, ...] = ()  # of the layers in the model; (): 0, 1, 2 ...
    sequences: tuple[int, ...] = ()  # tokens of each; (): all are one
    prompt_tokens: int = 0  # of each sequence
    initial: Any = "cold"  # "cold", "prompt", or experts per layer, most used first


@dataclass
class Replay:
    """[tokens, layers, top_k]; -1 and False if a relu router selects fewer."""

    selected: NDArray[np.int32]
    missed: NDArray[np.bool_]
    dropped: NDArray[np.bool_]
    changed: int = 0
    lifetimes: list[int] = field(default_factory=list)
    most_cached: int = 0


def replay(logits: NDArray[np.float32], setup: Setup) -> Replay:
    """Every token of [tokens, layers, experts]; counts are of decoding only."""
    tokens, layers, _ = logits.shape
    shape = (tokens, layers, setup.top_k)
    out = Replay(np.full(shape, -1, np.int32), np.zeros(shape, bool), np.zeros(shape, bool))
    begin = 0
    for length in setup.sequences or (tokens,):
        part = slice(begin, begin + length)
        _replay_sequence(logits[part], setup, out, begin)
        begin += length
    return out


def _initial_pools(setup: Setup, layers: int) -> list[Pool]:
    """Per layer; the same one if there is one for all."""
    if setup.one_pool:
        pools = [Pool(setup.capacity * layers, setup.eviction)] * layers
    else:
        pools = [Pool(setup.capacity, setup.eviction) for _ in range(layers)]
    if isinstance(setup.initial, str):
        return pools
    # The best of every layer before the second best of any, as many as fit; the best used last.
    wanted: dict[int, list[Any]] = {}
    for rank in range(max(len(experts) for experts in setup.initial)):
        for layer, experts in enumerate(setup.initial):
            fits = wanted.setdefault(id(pools[layer]), [])
            if rank < len(experts) and len(fits) < pools[layer].capacity:
                fits.append((layer, experts[rank]))
    for pool in {id(pool): pool for pool in pools}.values():
        for key in reversed(wanted.get(id(pool), [])):
            pool.access([key])
    return pools


def _replay_sequence(logits: NDArray[np.float32], setup: Setup, out: Replay, begin: int) -> None:
    tokens, layers, _ = logits.shape
    numbers = setup.numbers or tuple(range(layers))
    scores = [[setup.router.scores(row, layer) for layer, row in enumerate(t)] for t in logits]
    exact = [[of_layer.order[: setup.top_k] for of_layer in token] for token in scores]
    pools = _initial_pools(setup, layers)
    ranges: list[list[float]] = [[] for _ in range(layers)]
    decoding = min(setup.prompt_tokens, tokens)
    loaded_at: dict[Any, int] = {key: decoding for pool in pools for key in pool.by_use}
    for token in range(tokens):
        prompt = token < decoding
        for layer in range(layers):
            here, pool = scores[token][layer], pools[layer]
            cached = {expert for at, expert in pool.by_use if at == layer}
            if here.z:
                ranges[layer].append(max(here.z.values()) - min(here.z.values()))
            ranked = exact[token][layer]
            dropped = [False] * len(ranked)
            if ranked and numbers[layer] >= setup.first and not prompt:
                chosen = _choose(here, cached, setup, ranges[layer])
                ranked = [expert for expert in here.order if expert in chosen]
                if setup.drop_cold > 0:
                    softmax = not (setup.router.sigmoid or setup.router.relu)
                    dropped = cold_experts(here, ranked, cached, setup.drop_cold, softmax)
            at, used = begin + token, slice(len(ranked))
            out.selected[at, layer, used] = ranked
            out.missed[at, layer, used] = [expert not in cached for expert in ranked]
            out.dropped[at, layer, used] = dropped
            if prompt and setup.initial != "prompt":
                continue
            kept = [(layer, e) for e, gone in zip(ranked, dropped, strict=True) if not gone]
            if setup.eviction == "belady":
                for key in {*kept, *pool.by_use}:
                    after = token + (key[0] <= layer)
                    pool.next_use[key] = _next_use(exact, key, after, decoding)
            for key in kept:
                if key not in pool.by_use:
                    loaded_at[key] = token
            evicted = pool.access(kept)
            out.most_cached = max(out.most_cached, len(pool.by_use))
            if prompt:
                continue
            out.changed += len(set(ranked) - set(exact[token][layer]))
            out.lifetimes += [token - loaded_at[key] for key in evicted]


def _choose(scores: Scores, cached: set[int], setup: Setup, ranges: list[float]) -> set[int]:
    top_k, guaranteed = setup.top_k, setup.guaranteed
    if setup.method == "max-rank":
        return max_rank(scores, cached, top_k, guaranteed, int(setup.value))
    if setup.method == "cumulative":
        window = window_of(scores, setup.value)
        return max_rank(scores, cached, top_k, guaranteed, window)
    if setup.method == "cache-prior":
        boost = setup.value * (float(running_sum(ranges)[-1]) / len(ranges))
        return cache_prior(scores, cached, top_k, guaranteed, boost)
    return set(scores.order[:top_k])


def _next_use(
    exact: list[list[list[int]]], key: tuple[int, int], after: int, decoding: int
) -> float:
    """When exact routing uses an expert next, in the token ``after`` or later.

    A prompt's misses are free: what it uses again is not worth keeping until then.
    """
    layer, expert = key
    for later in range(after, len(exact)):
        if expert in exact[later][layer]:
            return NEVER if later < decoding else later * len(exact[later]) + layer
    return NEVER
