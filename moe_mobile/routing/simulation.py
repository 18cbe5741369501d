# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Router logits replayed through routing and an expert cache, by the engine's own code."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mobile.errors import UsageError

__all__ = ["Simulation", "simulate"]


@dataclass(frozen=True, eq=False)
class Simulation:
    """What :func:`simulate` decided, per slot and in all.

    A slot is one of the ``top_k`` places of a token in a layer; a token-layer has ``top_k``.

    Attributes:
        selected: int32 [tokens, layers, top_k], the experts in rank order: best first by what the
            model sorts, whatever the cache made of it.
        missed: bool, same shape: not in the cache when the token came to the layer.
        dropped: bool, same shape: missed, and not read either (``drop-cold``).
        routing: the routing as it came out, with ``auto`` and ``J`` settled; ``"exact"`` where the
            method is off.
        note: why the method is off, else "".
        hits: slots that found their expert in the cache.
        misses: slots that did not.
        loads: misses that were read, all but the dropped.
        changed: slots whose expert exact routing would not have selected.
        evictions: experts that left the cache.
        hit_rate: hits per slot.
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
    hits: int
    misses: int
    loads: int
    changed: int
    evictions: int
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
    scoring: str = "softmax",
    bias: NDArray[np.float32] | None = None,
    groups: int = 1,
    top_groups: int = 1,
) -> Simulation:
    """Decode a trace of router logits from an empty cache, and say what hit and what missed.

    Every token is decoded: the cache-conditional methods (arXiv 2412.00099, section 3; Max-Rank is
    its Algorithm 1, the cumulative threshold its Algorithm 2, Cache-Prior its section 3.3) act from
    the first one on. The C++ code is the engine's; the GIL is released, and Ctrl-C stops it.

    Args:
        logits: float32 [tokens, layers, experts], none empty, all finite: the routers' outputs
            before softmax or sigmoid and without selection bias.
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
        scoring: ``softmax``, or ``sigmoid`` for routers in DeepSeek-V3's style.
        bias: float32 [experts] or [layers, experts], added to sigmoids for selection only.
        groups: number of equal groups of experts, of which ...
        top_groups: ... so many are eligible for a token.

    Returns:
        The decisions and their totals. The same input gives the same output.

    Raises:
        UsageError: an argument has a wrong type, shape or value, or they do not fit each other;
            ``setting`` names it.
        BudgetError: ``capacity`` is below ``top_k``.
    """
    from moe_mobile import _native

    checked = _checked_logits(logits)
    _, layers, experts = checked.shape
    result = _native.simulate(
        checked,
        _whole("top_k", top_k),
        _whole("capacity", capacity),
        _text("routing", routing),
        _text("eviction", eviction),
        _choice("pool", pool, ("layer", "global")) == "global",
        _choice("scoring", scoring, ("softmax", "sigmoid")) == "sigmoid",
        _checked_bias(bias, layers, experts),
        _whole("groups", groups),
        _whole("top_groups", top_groups),
    )
    slots = result["selected"].size
    evictions = result["evictions"]
    return Simulation(
        selected=result["selected"],
        missed=result["missed"],
        dropped=result["dropped"],
        routing=result["routing"],
        note=result["note"],
        hits=slots - result["misses"],
        misses=result["misses"],
        loads=result["loads"],
        changed=result["changed"],
        evictions=evictions,
        hit_rate=1 - result["misses"] / slots,
        loads_per_token_layer=result["loads"] * top_k / slots,
        changed_share=result["changed"] / slots,
        mean_lifetime=result["lifetime_tokens"] / evictions if evictions else None,
    )


def _checked_logits(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    remedy = "Give a numpy array of float32, [tokens, layers, experts]"
    if not isinstance(logits, np.ndarray):
        raise UsageError(f"a {type(logits).__name__} is no array", setting="logits", remedy=remedy)
    if logits.dtype != np.float32:
        raise UsageError(f"they are {logits.dtype}", setting="logits", remedy=remedy)
    if logits.ndim != 3 or logits.size == 0:
        raise UsageError(f"their shape is {logits.shape}", setting="logits", remedy=remedy)
    return np.ascontiguousarray(logits)


def _checked_bias(bias: NDArray[np.float32] | None, layers: int, experts: int) -> list[float]:
    if bias is None:
        return []
    remedy = "Give a numpy array of float32, [experts] or [layers, experts]"
    if not isinstance(bias, np.ndarray) or bias.dtype != np.float32:
        kind = getattr(bias, "dtype", type(bias).__name__)
        raise UsageError(f"it is {kind}", setting="bias", remedy=remedy)
    if bias.shape not in ((experts,), (layers, experts)):
        raise UsageError(f"its shape is {bias.shape}", setting="bias", remedy=remedy)
    flat: list[float] = np.broadcast_to(bias, (layers, experts)).ravel().tolist()
    return flat


def _whole(setting: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if not 1 <= number < 2**31:
        raise UsageError(
            f"{value!r} is not a whole number of 1 or more",
            setting=setting,
            remedy="Correct it",
        )
    return number


def _text(setting: str, value: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{value!r} is no text", setting=setting, remedy="Give a str")
    return value


def _choice(setting: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(
            f"{value!r} is unknown", setting=setting, remedy=f"Possible are: {', '.join(choices)}"
        )
    return value
