# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Router logits replayed through routing and an expert cache, by the engine's own code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.router import SOFTMAX, RouterSpec
from moe_mobile.errors import UsageError
from moe_mobile.routing.arguments import InitialCache, checked_logits, listed, run_settings, whole

__all__ = ["Simulation", "simulate"]


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
        hit_rate: hits per slot; 1 if there is no slot.
        loads_per_token_layer: loads per token and layer.
        changed_share: changed per slot.
        mean_lifetime: mean number of tokens from an expert's load to its eviction, over all
            evictions; None if there was none.
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
    hit_rate: float
    loads_per_token_layer: float
    changed_share: float
    mean_lifetime: float | None


def simulate(
    logits: NDArray[np.float32],
    top_k: int = 8,
    capacity: int = 32,
    routing: str = "cache-prior:0.2,J=2",
    eviction: str = "lru",
    *,
    pool: str = "layer",
    sequences: Iterable[int] | None = None,
    prompt_tokens: int = 0,
    initial_cache: InitialCache = "cold",
    layers: Iterable[int] | None = None,
    router: RouterSpec = SOFTMAX,
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
        pool: ``layer``: a cache of ``capacity`` for each; ``global``: one of capacity x layers.
        sequences: how many tokens each sequence has, in all those of ``logits``. Each begins with
            the initial cache, and nothing is known of those before it.
        prompt_tokens: so many tokens at the beginning of each sequence are its prompt. They are
            routed exactly, and Cache-Prior sees their range.
        initial_cache: what is cached when a sequence's decoding begins: ``cold``, nothing;
            ``prompt``, what the prompt left, which began with nothing; or for each layer a list of
            experts, most used first, of which ``capacity`` are. A prompt goes through the cache
            with ``prompt`` only, otherwise it leaves it alone.
        layers: the model's number of each layer, ascending, in which ``first=N`` counts; without it
            0, 1, 2 ...
        router: how the model selects and weighs; its bias has a row for each layer of ``logits``.

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
    settings = run_settings(
        experts=experts,
        layers=numbers,
        top_k=top_k,
        capacity=capacity,
        routing=routing,
        eviction=eviction,
        pool=pool,
        initial_cache=initial_cache,
        router=router,
    )
    lengths = _lengths(sequences, tokens)
    prompt = whole("prompt_tokens", prompt_tokens, least=0)
    if prompt >= max(lengths):
        raise UsageError(
            f"a prompt of {prompt} leaves nothing to decode",
            setting="prompt_tokens",
            remedy="Give fewer than the longest sequence has",
        )
    result = _native.simulate(checked, lengths, prompt, settings)
    slots = result["slots"]
    decoded = sum(max(0, length - prompt) for length in lengths)
    evictions = result["evictions"]
    return Simulation(
        selected=result["selected"],
        missed=result["missed"],
        dropped=result["dropped"],
        routing=result["routing"],
        note=result["note"],
        decoded_tokens=decoded,
        hits=slots - result["misses"],
        misses=result["misses"],
        loads=result["loads"],
        changed=result["changed"],
        evictions=evictions,
        lifetime_tokens=result["lifetime_tokens"],
        hit_rate=1 - result["misses"] / max(1, slots),
        loads_per_token_layer=result["loads"] / (decoded * depth),
        changed_share=result["changed"] / max(1, slots),
        mean_lifetime=result["lifetime_tokens"] / evictions if evictions else None,
    )


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
