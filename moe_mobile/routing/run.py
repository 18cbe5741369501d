# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Routing and an expert cache that go along with a model, by the engine's own code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Unpack

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
from moe_mobile.routing.trace import MAX_LAYERS
from moe_mobile.settings import index


class Routed(NamedTuple):
    """What :meth:`RoutingRun.route` decided for some tokens in a layer.

    Attributes:
        selected: int32 [tokens, top_k], the experts in rank order: best first by the model's own
            scores, not the cache's choice; -1 if a relu router selects fewer.
        missed: bool, same shape: not in the cache when the token came to the layer.
        dropped: bool, same shape: missed, and not read either (``drop-cold``): its weight is 0, and
            the others' grow so that their sum stays what it was.
    """

    selected: NDArray[np.int32]
    missed: NDArray[np.bool_]
    dropped: NDArray[np.bool_]


@dataclass(frozen=True)
class RunTotals:
    """Counts over all decoded tokens since the object was made, whatever was reset since.

    Attributes:
        slots: top_k for each token and layer; of relu routers those with an expert.
        misses, loads, changed, evictions: as in :class:`Simulation`.
        lifetime_tokens: tokens from load to eviction, summed over all evictions.
    """

    slots: int
    misses: int
    loads: int
    changed: int
    evictions: int
    lifetime_tokens: int


class RoutingRun:
    """Routing and cache of one sequence after another; the caller computes the logits.

    With ``pool="layer"`` a layer's decisions depend on its own logits only. So a whole sequence may
    go through layer by layer: all its tokens in layer 0 at once, then all in layer 1. With
    ``pool="global"`` a token must go through all layers, in order, before the next one.

    Tokens of a prompt are routed exactly; methods with a memory see them. One object serves one
    thread at a time. After :meth:`reset` the same logits give the same decisions.

    Args:
        experts: of each layer.
        layers: their number, or the model's numbers of those that have experts, ascending.
            ``first=N`` counts in the latter; :meth:`route` always counts from 0 without gaps.
        top_k, capacity, routing, eviction: as :func:`simulate` takes them, without ``belady``.
        keywords: ``pool``, ``initial_cache`` and ``router``: :class:`RunKeywords`.

    Attributes:
        routing: as it came out, with ``auto`` and ``J`` settled; ``"exact"`` if the method is
            off.
        note: why the method is off, else "".
        layers: their number.

    Raises:
        UsageError: an argument has a wrong type, shape or value, or they do not fit each other;
            ``setting`` names it.
        BudgetError: ``capacity`` is below ``top_k``.
    """

    def __init__(
        self,
        *,
        experts: int,
        layers: int | Iterable[int],
        top_k: int,
        capacity: int,
        routing: str = "exact",
        eviction: str = "lru",
        **keywords: Unpack[RunKeywords],
    ) -> None:
        from moe_mobile import _native

        if eviction == "belady":
            raise UsageError(
                "belady needs all tokens of a trace in advance",
                setting="eviction",
                remedy="Simulate a trace, or choose lru or lfu",
            )
        numbers = _numbers(layers)
        arguments = RunArguments(
            experts=experts,
            layers=numbers,
            top_k=top_k,
            capacity=capacity,
            routing=routing,
            eviction=eviction,
            **keywords,
        )
        self._native = _native.RoutingRun(arguments.native())
        self.experts = int(experts)
        self.layers = len(numbers)
        self.routing = self._native.routing
        self.note = self._native.note

    def route(self, layer: int, logits: NDArray[np.float32], *, prompt: bool = False) -> Routed:
        """The next tokens of a layer, one after another.

        Args:
            layer: from 0 to ``layers`` - 1.
            logits: float32 [tokens, experts], none empty, all finite: the router's outputs before
                softmax, sigmoid or relu and without selection bias.
            prompt: they are of the prompt, not decoded.

        Raises:
            UsageError: an argument makes no sense, or a global pool is not given all layers of each
                token in order. Nothing was changed then.
        """
        checked = checked_logits(logits, "tokens, experts", 2)
        if checked.shape[1] != self.experts:
            raise UsageError(
                f"they are of {checked.shape[1]} experts",
                setting="logits",
                remedy=f"Give those of {self.experts}",
            )
        return Routed(*self._native.route(whole("layer", layer, least=0), checked, bool(prompt)))

    def cached(self) -> NDArray[np.bool_]:
        """[layers, experts]: what is in the cache."""
        return self._native.cached()

    def reset(self) -> None:
        """Begin the next sequence: cache and method are as at first. The totals go on."""
        self._native.reset()

    def totals(self) -> RunTotals:
        """What was counted so far."""
        return RunTotals(**self._native.totals())


def _numbers(layers: int | Iterable[int]) -> Sequence[int]:
    """The model's numbers of the layers; a count of layers may be given instead."""
    try:
        count = index(layers)
    except TypeError:
        return listed("layers", layers, least=0)
    if whole("layers", count) > MAX_LAYERS:
        raise UsageError(
            f"{count} layers are more than {MAX_LAYERS}",
            setting="layers",
            remedy="Give those of a model",
        )
    return range(count)
