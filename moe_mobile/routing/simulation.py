# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Router logits replayed through routing and an expert cache, by the engine's own code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from moe_mobile.errors import UsageError
from moe_mobile.routing.arguments import (
    RunArguments,
    RunKeywords,
    checked_logits,
    listed,
    whole,
)


@dataclass(frozen=True, eq=False)
class Simulation:
    """What :func:`simulate` decided, per slot and in all.

    A slot is a place of a token in a layer that has an expert: ``top_k`` for each token and layer,
    of relu routers at most. The arrays are of all tokens, everything that is counted of the decoded
    ones only.

    Attributes:
        selected: int32 [tokens, layers, top_k], the experts in rank order: best first by the
            model's own scores, not the cache's choice; -1 if a relu router selects fewer.
        missed: bool, same shape: not in the cache when the token came to the layer.
        dropped: bool, same shape: missed, and not read either (``drop-cold``).
        routing: the routing as it came out, with ``auto`` and ``J`` settled; ``"exact"`` if the
            method is off.
        note: why the method is off, else "".
        decoded_tokens: all but the prompts'.
        hits: slots that found their expert in the cache.
        misses: slots that did not.
        loads: misses that were read, all but the dropped.
        changed: slots whose expert exact routing would not have selected.
        evictions: experts that left the cache.
        lifetime_tokens: tokens from load to eviction, summed over all evictions.
    """

    selected: NDArray[np.int32]
    missed: NDArray[np.bool_]
    dropped: NDArray[np.bool_]
    routing: str
    note: str
    decoded_tokens: int
    hits: int
    misses: int
    loads: int
    changed: int
    evictions: int
    lifetime_tokens: int

    @property
    def hit_rate(self) -> float:
        """Hits per slot; 1 if there is no slot."""
        return 1 - self.misses / max(1, self.hits + self.misses)

    @property
    def loads_per_token_layer(self) -> float:
        layers: int = self.selected.shape[1]
        return self.loads / (self.decoded_tokens * layers)

    @property
    def changed_share(self) -> float:
        """Of the slots."""
        return self.changed / max(1, self.hits + self.misses)

    @property
    def mean_lifetime(self) -> float | None:
        """Of evicted experts, in tokens from load to eviction; None if there was none."""
        return self.lifetime_tokens / self.evictions if self.evictions else None


def simulate(
    logits: NDArray[np.float32],
    top_k: int = 8,
    capacity: int = 32,
    routing: str = "exact",
    eviction: str = "lru",
    *,
    sequences: Iterable[int] | None = None,
    prompt_tokens: int = 0,
    layers: Iterable[int] | None = None,
    **keywords: Unpack[RunKeywords],
) -> Simulation:
    """Replay a trace of router logits, and say what hit and what missed.

    Unless told otherwise it is one sequence that is decoded whole, from an empty cache: the
    cache-conditional methods (arXiv 2412.00099, section 3; Max-Rank is its Algorithm 1, the
    cumulative threshold its Algorithm 2, Cache-Prior its section 3.3) act from the first token on.
    The C++ code is the engine's; the GIL is released, and Ctrl-C stops it.

    Args:
        logits: float32 [tokens, layers, experts], none empty, all finite: the routers' outputs
            before softmax, sigmoid or relu and without selection bias.
        top_k: experts selected per token and layer.
        capacity: experts that the cache holds per layer, from ``top_k`` to all.
        routing: ``exact``, ``max-rank:M``, ``cumulative:P``, ``cache-prior:LAMBDA`` or
            ``cache-prior:auto``; then ``,J=N`` (the N best are always selected; without it 2, for
            routers of one or two experts 1) and ``,first=N`` (layers before N stay exact); then
            ``+drop-cold:F``, which drops missed experts of less than F / top_k of the selected
            gate mass. docs/routing/README.md describes them.
        eviction: ``lru``, ``lfu`` (``lfu:0.99``), ``lfu:DECAY`` with a decay of 0 to 1 per access
            of the pool, or ``belady`` (for exact routing without ``drop-cold`` only).
        sequences: how many tokens each sequence has, in all those of ``logits``. Each begins with
            the initial cache, and nothing is known of those before it.
        prompt_tokens: so many tokens at the beginning of each sequence are its prompt. They are
            routed exactly, and Cache-Prior sees their range.
        layers: the model's number of each layer, ascending, in which ``first=N`` counts; without it
            0, 1, 2 ...
        keywords: ``pool``, ``initial_cache`` and ``router``: :class:`RunKeywords`.

    Returns:
        The decisions and their totals. The same input gives the same output.

    Raises:
        UsageError: an argument has a wrong type, shape or value, or they do not fit each other;
            ``setting`` names it.
        BudgetError: ``capacity`` is below ``top_k``.
    """
    from moe_mobile import _native

    checked = checked_logits(logits, "tokens, layers, experts", 3)
    tokens, depth, experts = checked.shape
    numbers = range(depth) if layers is None else listed("layers", layers, least=0)
    if len(numbers) != depth:
        raise UsageError(
            f"there are {len(numbers)} numbers for {depth} layers",
            setting="layers",
            remedy="Give the model's number of each",
        )
    arguments = RunArguments(
        experts=experts,
        layers=numbers,
        top_k=top_k,
        capacity=capacity,
        routing=routing,
        eviction=eviction,
        **keywords,
    )
    settings = arguments.native()
    lengths = _lengths(sequences, tokens)
    prompt = whole("prompt_tokens", prompt_tokens, least=0)
    if prompt >= max(lengths):
        raise UsageError(
            f"a prompt of {prompt} leaves nothing to decode",
            setting="prompt_tokens",
            remedy="Give fewer than the longest sequence has",
        )
    result = _native.simulate(checked, lengths, prompt, settings)
    decoded = sum(max(0, length - prompt) for length in lengths)
    hits = result.pop("slots") - result["misses"]
    return Simulation(decoded_tokens=decoded, hits=hits, **result)


def _lengths(sequences: Iterable[int] | None, tokens: int) -> list[int]:
    if sequences is None:
        return [tokens]
    lengths = listed("sequences", sequences)
    if sum(lengths) != tokens:
        raise UsageError(
            f"they have {sum(lengths)} tokens, the logits {tokens}",
            setting="sequences",
            remedy="Give the length of each",
        )
    return lengths
