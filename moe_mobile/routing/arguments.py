# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What routing and a cache are given, checked before C++ sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.router import SOFTMAX, RouterSpec
from moe_mobile.errors import UsageError
from moe_mobile.routing.trace import MAX_EXPERTS, MAX_LAYERS
from moe_mobile.settings import index

if TYPE_CHECKING:
    from moe_mobile import _native

_MAX_IN_ALL = 2**24
"""Experts of all layers: what is kept of each stays below a GiB."""

InitialCache = str | Sequence[Sequence[int]]
"""``cold``, ``prompt``, or for each layer experts to begin with, the most used first."""


class RunKeywords(TypedDict, total=False):
    """Keywords of :func:`moe_mobile.routing.simulate` and :class:`moe_mobile.routing.RoutingRun`.

    Attributes:
        pool: ``layer`` (the default): a cache of ``capacity`` for each; ``global``: one of capacity
            x layers.
        initial_cache: what is cached when a sequence's decoding begins: ``cold`` (the default),
            nothing; ``prompt``, what the prompt left, which began with nothing; or for each layer a
            list of experts, most used first, of which ``capacity`` are. A prompt goes through the
            cache with ``prompt`` only, otherwise it leaves it alone.
        router: how the model selects and weighs; its bias has a row for each layer. Plain softmax
            by default.
        precision: ``full`` (the default), or ``low`` or ``ranks:N`` as for the engine: the ranks in
            the second precision have a cache of their own.
        low_capacity: what that cache holds, as ``capacity`` is what the other one does.
    """

    pool: str
    initial_cache: InitialCache
    router: RouterSpec
    precision: str
    low_capacity: int


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What routing and cache are made from, as a caller gave it: not checked yet."""

    experts: int
    layers: Sequence[int]
    top_k: int
    capacity: int
    routing: str
    eviction: str
    pool: str = "layer"
    initial_cache: InitialCache = "cold"
    router: RouterSpec = SOFTMAX
    precision: str = "full"
    low_capacity: int = 0

    def native(self) -> _native.RunSettings:
        """For C++. Raises UsageError if one of them has the wrong type."""
        from moe_mobile import _native

        experts = whole("experts", self.experts)
        numbers = [whole("layers", layer, least=0) for layer in self.layers]
        _require_size(experts, len(numbers))
        is_text = isinstance(self.initial_cache, str)
        if is_text:
            choice("initial_cache", self.initial_cache, ("cold", "prompt"))
        return _native.RunSettings(
            _router(self.router, experts, len(numbers), whole("top_k", self.top_k)),
            numbers,
            whole("capacity", self.capacity, least=0),
            text("routing", self.routing),
            text("eviction", self.eviction),
            choice("pool", self.pool, ("layer", "global")) == "global",
            self.initial_cache == "prompt" if is_text else False,
            [] if isinstance(self.initial_cache, str) else _profile(self.initial_cache),
            text("precision", self.precision),
            whole("low_capacity", self.low_capacity, least=0),
        )


def checked_logits(logits: NDArray[np.float32], shape: str, dimensions: int) -> NDArray[np.float32]:
    """As C++ reads them; copied where they lie otherwise. ``shape`` is for errors."""
    remedy = f"Give a numpy array of float32, [{shape}]"
    if not isinstance(logits, np.ndarray):
        raise UsageError(
            f"a {type(logits).__name__} is not an array", setting="logits", remedy=remedy
        )
    if logits.dtype != np.float32:
        raise UsageError(f"they are {logits.dtype}", setting="logits", remedy=remedy)
    if logits.ndim != dimensions or logits.size == 0:
        raise UsageError(f"their shape is {logits.shape}", setting="logits", remedy=remedy)
    return np.ascontiguousarray(logits)


def whole(setting: str, value: Any, least: int = 1) -> int:
    """A number that C++ can hold."""
    try:
        number = index(value)
    except TypeError:
        number = -1
    if not least <= number < 2**31:
        raise UsageError(
            f"{value!r} is not a whole number of {least} or more",
            setting=setting,
            remedy="Correct it",
        )
    return number


def listed(setting: str, values: Any, least: int = 1) -> list[int]:
    """Several such numbers."""
    try:
        # Iterating over an array without dimensions is a TypeError too.
        items = None if isinstance(values, str | bytes) else list(values)
    except TypeError:
        items = None
    if items is None:
        raise UsageError(
            f"{values!r} is not a list of whole numbers",
            setting=setting,
            remedy="Give a list of them",
        )
    return [whole(setting, value, least) for value in items]


def text(setting: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{value!r} is not a text", setting=setting, remedy="Give a str")
    return value


def choice(setting: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(
            f"{value!r} is unknown", setting=setting, remedy=f"Valid values: {', '.join(choices)}"
        )
    return str(value)


def _require_size(experts: int, layers: int) -> None:
    """Refuses what no model has, before memory is taken for it."""
    for setting, number, most in (
        ("experts", experts, MAX_EXPERTS),
        ("layers", layers, MAX_LAYERS),
        ("experts", experts * layers, _MAX_IN_ALL),
    ):
        if number > most:
            where = " in all layers" if most is _MAX_IN_ALL else ""
            raise UsageError(
                f"{number} {setting}{where} are more than {most}",
                setting=setting,
                remedy="Give those of a model",
            )


def _profile(profile: Sequence[Sequence[int]]) -> list[list[int]]:
    try:
        layers = [[whole("initial_cache", e, least=0) for e in layer] for layer in profile]
    except TypeError:
        layers = []
    if not layers:
        raise UsageError(
            "it is not a list of experts per layer",
            setting="initial_cache",
            remedy="Give cold, prompt or a profile's experts",
        )
    return layers


def _router(router: RouterSpec, experts: int, layers: int, top_k: int) -> _native.RouterSpec:
    """C++ checks the values. Raises UsageError if the bias is not one of these layers."""
    from moe_mobile import _native

    if not isinstance(router, RouterSpec):
        raise UsageError(
            f"a {type(router).__name__} is not a RouterSpec",
            setting="router",
            remedy="Give the bundle's (`read_manifest(bundle).moe.router`), or make one",
        )
    router.check_bias(layers, experts)
    return _native.RouterSpec(
        experts,
        top_k,
        text("score", router.score),
        bool(router.renormalize),
        router.scale,
        router.epsilon,
        whole("groups", router.groups),
        whole("top_groups", router.top_groups),
        [float(number) for row in router.bias for number in row],
    )
