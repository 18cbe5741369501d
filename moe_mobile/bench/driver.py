# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What is measured: tests and settings, multiplied into the rows of a grid, and checked first."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moe_mobile.base.json_text import json_text
from moe_mobile.bench.filling import MOST_TOKENS
from moe_mobile.bench.gate import Gate
from moe_mobile.bench.row import BenchTest
from moe_mobile.errors import UsageError
from moe_mobile.settings import EngineSettings

if TYPE_CHECKING:
    from moe_mobile.bench.router_trace import RouterTrace


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How each row is measured.

    Attributes:
        repetitions: counted runs of a test.
        warmup: runs before them, in each process, that are not counted; None: until the cache is
            full, or more runs would not fill it.
        seed: of the random tokens; repetition r of every row has those of ``seed + r``.
        gate: what must be cool before each repetition; None: no gate.
        interleave: one repetition of each row, then the next of each in reverse order, and so on.
        router_trace: stands for what the routers say; None: their own.

    Raises UsageError for a seed that leaves no room: seeds of repetitions are of 32 bits.
    """

    repetitions: int = 5
    warmup: int | None = 1
    seed: int = 0
    gate: Gate | None = None
    interleave: bool = False
    router_trace: RouterTrace | None = None

    def __post_init__(self) -> None:
        most = (1 << 32) - self.repetitions - self.most_warmup
        if not 0 <= self.seed <= most:
            raise UsageError(
                f"{self.seed} is not a valid seed",
                setting="seed",
                remedy=f"Give one from 0 to {most}: each repetition adds 1, up to 32 bits",
            )

    @property
    def most_warmup(self) -> int:
        """The most runs of warm-up that there may be."""
        return MOST_TOKENS if self.warmup is None else self.warmup


@dataclasses.dataclass(frozen=True)
class BundleFacts:
    """What a result says about the bundle. Sizes in bytes."""

    path: pathlib.Path
    model_type: str
    model_size: int
    num_parameters: int
    max_batch: int
    context_length: int
    backend: str
    bundle_hash: str


Cell = tuple[BenchTest, EngineSettings]
"""Of a grid: one test under one set of settings. Measuring it makes a row of results."""


def bundle_facts(bundle: pathlib.Path) -> BundleFacts:
    """What results say about a bundle, from its manifest. Raises the bundle reader's errors."""
    from moe_mobile.bundle import inspect_bundle

    facts = inspect_bundle(bundle)
    model, memory = facts["model"], facts["memory"]
    return BundleFacts(
        path=bundle,
        model_type=f"{model['name']} {facts['quantization']['name']}",
        model_size=(memory["dense_bytes"] + memory["embedding_bytes"] + memory["experts_bytes"]),
        num_parameters=model["num_parameters"],
        max_batch=facts["max_batch"],
        context_length=model["context_length"],
        backend=_backend(facts["delegate"]),
        bundle_hash=facts["hash"],
    )


def _backend(delegate: dict[str, Any]) -> str:
    """Such as ``XNNPACK``, or ``PORTABLE+XNNPACK`` if dense programs and experts differ."""
    names = dict.fromkeys((*delegate["dense"], *delegate["experts"]))
    return "+".join(names).upper()


def grid(
    tests: Sequence[BenchTest],
    caches: Sequence[EngineSettings],
    *,
    residencies: Sequence[str],
    lanes: Sequence[int],
    threads: Sequence[int | None],
) -> list[Cell]:
    """Every combination, tests innermost, in the order the user gave them.

    ``caches``: a cache and a routing each, and what all have in common. With all experts in memory
    they differ in the routing alone: the sizes give one row.
    """
    settings = [
        cache.with_values({"residency": residency, "lanes": lane, "threads": thread})
        for residency, cache, lane, thread in itertools.product(residencies, caches, lanes, threads)
    ]
    distinct: dict[str, EngineSettings] = {}
    for setting in settings:
        distinct.setdefault(_measured(setting), setting)
    return [(test, setting) for setting in distinct.values() for test in tests]


def _measured(settings: EngineSettings) -> str:
    """The same for settings that measure the same."""
    request = settings.as_request()
    if request["residency"] == "resident":
        del request["cache"]
    return json_text(request, sort_keys=True)


def varied(rows: Sequence[Cell]) -> list[str]:
    """The settings other than test and cache in which rows differ."""
    names = ("residency", "routing", "lanes", "threads")
    requests = [settings.as_request() for _, settings in rows]
    return [name for name in names if len({request.get(name) for request in requests}) > 1]


def row_name(test: BenchTest, settings: Mapping[str, Any], names: Sequence[str]) -> str:
    """Tells a row from others of its grid that differ in ``names``.

    ``settings`` has the names of the engine's JSON.
    """
    cache = "all" if settings["residency"] == "resident" else settings["cache"]
    others = [f"{name} {settings.get(name) or 'auto'}" for name in names]
    return ", ".join([f"cache {cache}", *others, test.name])


def check_fits(tests: Sequence[BenchTest], facts: BundleFacts, context: int | None) -> None:
    """Raise UsageError, about ``context`` if it is given, if a test needs more positions than the
    context has."""
    if context is not None and context > facts.context_length:
        raise UsageError(
            f"{context} positions are more than the model's {facts.context_length}",
            setting="context",
            remedy=f"Give at most {facts.context_length}, or leave it out",
        )
    limit = facts.context_length if context is None else context
    for test in tests:
        needed = test.positions
        if needed > limit:
            what = "context of this model" if context is None else "chosen context"
            both = test.n_prompt and test.n_gen
            length = "prompt_gen" if both else "n_gen" if test.n_gen else "n_prompt"
            raise UsageError(
                f"{test.name} needs {needed} positions, but the {what} has {limit}",
                setting=length if context is None else "context",
                remedy=f"Make the sum of prompt and decoded tokens at most {limit}",
            )


def run_key(members: dict[str, Any]) -> str:
    """Identifies what a row measures, to continue a grid: a hash of what decides it."""
    text = json_text(members, sort_keys=True, compact=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
