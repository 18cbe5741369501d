# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What an engine says about itself and its work, as :class:`Info`, :class:`Stats` and
:class:`GenerationResult`.

`moe_runner` sends the same members as JSON (docs/runner.md).
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from moe_mobile.bundle.manifest import Quantization
from moe_mobile.settings import EngineSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Uses:
    """Times in nanoseconds of wall clock, and what was read.

    Attributes:
        total_ns: all of it; the other times are parts of it.
        dense_ns: the layers' dense programs.
        attention_ns: attention over the KV cache.
        expert_ns: computing experts.
        wait_ns: waiting for flash with nothing left to compute.
        router_ns: choosing experts.
        head_ns: the output head.
        hits: experts that were in memory.
        misses: experts that were read from flash.
        dropped: experts that would have been read and were left out (``drop-cold``).
        bytes_read: bytes read from flash.
        slots_changed_by_routing: selections that differ from exact routing.
    """

    total_ns: int
    dense_ns: int
    attention_ns: int
    expert_ns: int
    wait_ns: int
    router_ns: int
    head_ns: int
    hits: int
    misses: int
    dropped: int
    bytes_read: int
    slots_changed_by_routing: int


@dataclass(frozen=True)
class TokenStats(_Uses):
    """What one decoded token took, or the whole prompt.

    Attributes:
        token: the token id that went through the model; the prompt's last.
        phase: ``"prefill"`` for the prompt, or ``"decode"``.
        count: tokens in this entry; 1 when decoding.
    """

    token: int
    phase: str
    count: int


@dataclass(frozen=True)
class TotalStats(_Uses):
    """Sums over all entries, the prompt included.

    Attributes:
        tokens: tokens that went through the model.
        hit_rate: hits / (hits + misses + dropped), 0 to 1; 0 without any.
        p50_ns, p95_ns, p99_ns: percentiles (nearest rank) of ``total_ns`` over the decoded tokens
            alone; 0 if there are none.
    """

    tokens: int
    hit_rate: float
    p50_ns: int
    p95_ns: int
    p99_ns: int


@dataclass(frozen=True)
class Stats:
    """What happened since the last generate, score, nll or reset.

    Attributes:
        totals: sums.
        tokens: an entry for the prompt, and one for each token decoded.
    """

    totals: TotalStats
    tokens: tuple[TokenStats, ...]


@dataclass(frozen=True)
class SlotClass:
    """The places for experts of one precision.

    Attributes:
        variant: number of the precision in the bundle, 0 for its first.
        quantization: the precision, such as ``8da4w``.
        ranks: experts of one token and layer that run in it.
        slots: experts that the cache holds in it.
        slots_per_layer: the same for each layer; 0 if the pool is global.
        slot_bytes: one expert in memory.
        token_cycle_slots: experts that one token uses in it (layers x ranks).
    """

    variant: int
    quantization: str
    ranks: int
    slots: int
    slots_per_layer: int
    slot_bytes: int
    token_cycle_slots: int


@dataclass(frozen=True)
class MemoryPlan:
    """The memory that an engine takes, planned before it takes any. Sizes in bytes.

    Attributes:
        experts_budget_bytes: what the setting of the cache comes to.
        classes: the slots of each precision that is used.
        slots: experts that the cache holds, in all precisions together.
        slots_per_layer: the same for each layer; 0 if the pool is global.
        slot_bytes: one expert in memory, in the largest precision.
        num_experts: experts of all layers, in all precisions that are used.
        dense_bytes: everything that is always in memory.
        kv_bytes: the KV cache.
        arena_bytes: working memory of programs and reads.
        total_bytes: all of it.
        token_cycle_slots: experts that one token uses (layers x top-k).
        available_bytes: what the system had left when it was asked; 0 if unknown.
        text: the plan for people.
    """

    experts_budget_bytes: int
    classes: tuple[SlotClass, ...]
    slots: int
    slots_per_layer: int
    slot_bytes: int
    num_experts: int
    dense_bytes: int
    kv_bytes: int
    arena_bytes: int
    total_bytes: int
    token_cycle_slots: int
    available_bytes: int
    text: str


@dataclass(frozen=True)
class ModelInfo:
    """Facts of the bundle's model.

    Attributes:
        num_layers: layers of all kinds.
        context_length: the most positions that the model takes.
        num_experts, top_k: of one layer with experts, and how many of them a token uses.
        num_parameters: weights of the whole model.
        eos_token_ids: tokens that end a text.
        expert_precisions: formats that the experts are there in; the first is
            ``quantization.experts``.
    """

    name: str
    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    context_length: int
    num_experts: int
    top_k: int
    num_parameters: int
    eos_token_ids: tuple[int, ...]
    quantization: Quantization
    expert_precisions: tuple[str, ...]


@dataclass(frozen=True)
class RoutingInfo:
    """How experts are chosen.

    Attributes:
        requested: the setting.
        resolved: what it came to, with ``auto`` and ``J`` settled; ``"exact"`` if it is off.
        note: why it is off, and which precisions experts run in if not in the first alone; else
            ``""``.
        lossy: whether it, or the precision, may change the output.
    """

    requested: str
    resolved: str
    note: str
    lossy: bool


@dataclass(frozen=True)
class Info:
    """An open engine.

    Attributes:
        bundle_hash: SHA-256 of the bundle's manifest, which holds the hashes of all its files.
        settings: as they came out, with ``auto`` settled.
        direct_io: whether reads bypass the page cache.
        fallbacks: what works otherwise than the settings ask, and why.
        store_key: the CPU and the versions that the packed weights are for.
        executorch, moe_mobile: versions.
    """

    bundle_hash: str
    model: ModelInfo
    plan: MemoryPlan
    settings: EngineSettings
    routing: RoutingInfo
    direct_io: bool
    fallbacks: tuple[str, ...]
    store_key: str
    executorch: str
    moe_mobile: str


_READY = 2  # of the states


@dataclass(frozen=True, eq=False)
class Residency:
    """Which experts are in memory, and what was found there since the engine was opened.

    L counts the layers with experts, E the experts of one layer. Each entry is true at some moment
    of the call, while a token that is decoded goes on changing them.

    Attributes:
        layers: uint32 [L], the model's numbers of the layers.
        states: uint8 [L, E]: 0 absent, 1 on its way, 2 ready to run.
        variants: uint8 [L, E]: which precision of the expert is there; 0 if it is absent.
        hits: uint64 [L], experts that were in memory when they were needed.
        misses: uint64 [L], experts that were read then.
    """

    layers: NDArray[np.uint32]
    states: NDArray[np.uint8]
    variants: NDArray[np.uint8]
    hits: NDArray[np.uint64]
    misses: NDArray[np.uint64]

    @property
    def ready(self) -> NDArray[np.bool_]:
        """bool [L, E]: which experts can run."""
        ready: NDArray[np.bool_] = self.states == _READY
        return ready

    @classmethod
    def from_json(cls, value: Any) -> Residency:
        """From what the runner sends: a digit for each expert, a text for each layer.

        Raises ValueError, KeyError or TypeError if the value has another shape, or a state is
        unknown.
        """
        import numpy as np

        def digits(rows: list[str]) -> NDArray[np.uint8]:
            table = [[int(digit) for digit in row] for row in rows]
            return np.array(table, np.uint8).reshape(len(rows), -1 if rows else 0)

        states = digits(value["states"])
        if (states > _READY).any():
            raise ValueError(f"there is no state {states.max()} of an expert")
        return cls(
            layers=np.array(value["layers"], np.uint32),
            states=states,
            variants=digits(value["variants"]),
            hits=np.array(value["hits"], np.uint64),
            misses=np.array(value["misses"], np.uint64),
        )


@dataclass(frozen=True)
class GenerationResult:
    """A generation that ended.

    Attributes:
        text: the new text; None if the prompt was token ids.
        token_ids: the new tokens, without the end-of-sequence token.
        prompt_tokens: tokens of the prompt.
        stop: why it ended: ``"eos"`` (the model's end-of-sequence token), ``"length"``
            (``max_new_tokens``) or ``"context"`` (the KV cache is full).
        stats: times and reads, the prompt's included.
    """

    text: str | None
    token_ids: tuple[int, ...]
    prompt_tokens: int
    stop: Literal["eos", "length", "context"]
    stats: Stats


def from_json(kind: type[Result], value: Any) -> Result:
    """One of the classes above from the engine's JSON; members that it does not have are ignored.

    Raises KeyError or TypeError if the value has another shape.
    """
    if kind is EngineSettings:
        return typing.cast(Result, EngineSettings.from_request(value))
    if dataclasses.is_dataclass(kind):
        return kind(**{name: from_json(type_, value[name]) for name, type_ in members_of(kind)})
    if typing.get_origin(kind) is tuple:
        (item, _) = typing.get_args(kind)
        return typing.cast(Result, tuple(from_json(item, one) for one in value))
    return typing.cast(Result, value)


@functools.cache
def members_of(kind: type[Any]) -> list[tuple[str, Any]]:
    """Names and types of a class's members, those of its bases first."""
    types = typing.get_type_hints(kind)
    return [(field.name, types[field.name]) for field in dataclasses.fields(kind)]
