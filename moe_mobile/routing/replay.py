# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Traces in files replayed through a grid of routings and capacities."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_mobile.base.progress import Progress, silent
from moe_mobile.base.text import percent
from moe_mobile.errors import BudgetError, UsageError, read_error
from moe_mobile.routing.arguments import InitialCache
from moe_mobile.routing.capacity import Capacity
from moe_mobile.routing.counts import Counts
from moe_mobile.routing.facts import MoeFacts, require_same
from moe_mobile.routing.profile import CacheProfile
from moe_mobile.routing.simulation import Simulation, simulate
from moe_mobile.routing.trace import Trace, read_trace


@dataclass(frozen=True)
class Replayed(Counts):
    """The totals of one routing with one cache over all that the sequences decode.

    Attributes:
        evictions: as in :class:`Simulation`.
        lifetime_tokens: tokens from load to eviction, summed over all evictions.
    """

    evictions: int = 0
    lifetime_tokens: int = 0

    def plus(self, result: Simulation) -> Replayed:
        """With one more sequence."""
        return dataclasses.replace(
            self,
            tokens=self.tokens + result.decoded_tokens,
            hits=self.hits + result.hits,
            misses=self.misses + result.misses,
            dropped=self.dropped + result.misses - result.loads,
            changed=self.changed + result.changed,
            evictions=self.evictions + result.evictions,
            lifetime_tokens=self.lifetime_tokens + result.lifetime_tokens,
        )

    @property
    def loads_per_token(self) -> float:
        return self.loads / self.tokens

    @property
    def mean_lifetime(self) -> float | None:
        """In tokens; None if nothing was evicted."""
        return self.lifetime_tokens / self.evictions if self.evictions else None

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready object, derived figures included."""
        return {
            "routing": self.routing,
            "requested": self.requested,
            "lossy": self.lossy,
            "eviction": self.eviction,
            "pool": self.pool,
            "capacity": self.capacity,
            "capacity_share": self.capacity / self.experts,
            "tokens": self.tokens,
            "hits": self.hits,
            "misses": self.misses,
            "loads": self.loads,
            "dropped": self.dropped,
            "changed": self.changed,
            "evictions": self.evictions,
            "hit_rate": self.hit_rate,
            "loads_per_token_layer": self.loads_per_token_layer,
            "changed_share": self.changed_share,
            "mean_lifetime_tokens": self.mean_lifetime,
        }


@dataclass(frozen=True)
class Replay:
    """What :func:`replay` found.

    Attributes:
        model: of the traces.
        sequences: their number in all traces.
        tokens: in all of them.
        prompt_tokens: those of them that the traces mark as a prompt; the rest was decoded.
        rows: capacity by capacity, in each the routings in the order given, Belady last.
    """

    model: MoeFacts
    sequences: int
    tokens: int
    prompt_tokens: int
    rows: tuple[Replayed, ...]

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of the rows."""
        model = self.model
        layers = len(model.layers)
        notes = list(dict.fromkeys(row.note for row in self.rows if row.note))
        if layers > 1:
            cycle, never, every = model.token_cycle, model.never_hits, layers * model.experts
            notes.append(
                f"the LRU cliff: one token uses {cycle} of {every} experts "
                f"({percent(cycle / every)}). A global LRU of up to {never} "
                f"({percent(never / every)}) never hits with exact routing, because each token's "
                f"other layers use {never} between two uses of a layer; below {cycle} it can hit "
                "only a token's best experts. Such caches are refused here."
            )
        return notes

    def as_dict(self) -> dict[str, Any]:
        """What the traces are of, JSON-ready; the rows are not in it."""
        return {
            "model": self.model.name,
            "moe_layers": len(self.model.layers),
            "experts": self.model.experts,
            "top_k": self.model.top_k,
            "tokens": self.tokens,
            "sequences": self.sequences,
            "prompt_tokens": self.prompt_tokens,
        }


def replay(
    paths: Sequence[str | os.PathLike[str]],
    routings: Sequence[str],
    capacities: Sequence[Capacity],
    *,
    eviction: str = "lru",
    pool: str = "layer",
    initial_cache: str | CacheProfile = "cold",
    belady: bool = False,
    check: Callable[[MoeFacts], object] | None = None,
    progress: Progress = silent,
) -> Replay:
    """Replay every sequence of the traces through each routing at each capacity.

    One trace is in memory at a time. All are read once before the first is replayed, so that an
    error in the last is found before the work.

    Args:
        paths: different files that ``moe-mobile trace`` wrote, of one model from one source in one
            precision.
        routings, eviction, pool: as :func:`simulate` takes them.
        capacities: per layer; a global pool holds as many times the layers.
        initial_cache: what is cached when a sequence's decoding begins, after the tokens that the
            trace marks as a prompt: ``cold``, ``prompt`` or a profile.
        belady: add exact routing with Belady's eviction, the bound of all caches that route
            exactly, for each capacity.
        check: sees the model before the work, and may raise.

    Raises:
        UsageError: a setting or trace is wrong, the traces do not go together, one is named twice,
            or they decode nothing.
        BudgetError: a capacity holds less than one token uses of a layer.
        UnsupportedError, IoError: as :func:`read_trace`.
    """
    model: MoeFacts | None = None
    origin: dict[str, object] = {}
    initial: InitialCache = "cold"
    sequences = tokens = prompt = 0
    rows: list[Replayed] = []
    seen: dict[tuple[int, int], str | os.PathLike[str]] = {}
    for path in paths:
        trace = read_trace(path)
        _require_new(path, seen)
        if model is None:
            model, origin = trace.facts, _origin(trace)
            if check is not None:
                check(model)
            wanted = [(routing, eviction) for routing in routings]
            wanted += [("exact", "belady")] * belady
            initial = _initial(initial_cache, model)
            rows = _empty_rows(trace, model, dict.fromkeys(wanted), capacities, pool, initial)
        else:
            require_same(
                _origin(trace),
                origin,
                file=path,
                other=os.fspath(paths[0]),
                remedy="Replay the traces of each model and precision by themselves",
            )
        sequences += len(trace.sequences)
        tokens += sum(trace.sequences)
        prompt += sum(min(length, trace.prompt_tokens) for length in trace.sequences)
    if model is None:
        raise UsageError("there are no traces", setting="TRACE", remedy="Name at least one")
    if prompt == tokens:
        raise UsageError(
            f"all {tokens} tokens are marked as a prompt, so that nothing is decoded",
            file=paths[0],
            remedy="Record a trace of longer sequences, or of fewer prompt tokens",
        )
    done, total = 0, tokens * len(rows)
    for path in paths:
        trace = read_trace(path)
        for i in range(len(rows)):
            for span in trace.spans():
                progress("replaying", done, total)
                row, length = rows[i], span.stop - span.start
                if length > trace.prompt_tokens:
                    result = _simulate(trace, span, row, initial, trace.prompt_tokens)
                    rows[i] = row.plus(result)
                done += length
    return Replay(model, sequences, tokens, prompt, tuple(rows))


def _origin(trace: Trace) -> dict[str, object]:
    """What traces that are added up agree in, by the names that an error calls it."""
    return {
        **trace.facts.compared(),
        **dataclasses.asdict(trace.router),
        "source": trace.source,
        "source_id": trace.source_id,
        "precision": trace.precision,
    }


def _require_new(
    path: str | os.PathLike[str], seen: dict[tuple[int, int], str | os.PathLike[str]]
) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise read_error(error, os.fspath(path)) from error
    place = (status.st_dev, status.st_ino)
    if place in seen:
        raise UsageError(
            f"is the same file as {os.fspath(seen[place])}, and would count twice",
            file=path,
            remedy="Name each trace once",
        )
    seen[place] = path


def _initial(cache: str | CacheProfile, model: MoeFacts) -> InitialCache:
    return cache if isinstance(cache, str) else cache.of(model.name, model.layers, model.experts)


def _simulate(
    trace: Trace, span: slice, row: Replayed, initial: InitialCache, prompt_tokens: int
) -> Simulation:
    return simulate(
        trace.router_logits[span],
        trace.top_k,
        row.capacity,
        row.requested,
        row.eviction,
        pool=row.pool,
        prompt_tokens=prompt_tokens,
        initial_cache=initial,
        layers=trace.layers,
        router=trace.router,
    )


def _empty_rows(
    trace: Trace,
    model: MoeFacts,
    wanted: dict[tuple[str, str], None],
    capacities: Sequence[Capacity],
    pool: str,
    initial: InitialCache,
) -> list[Replayed]:
    """The rows to fill; one token goes through each, which finds wrong settings at once."""
    sizes = {_checked_size(capacity, model): None for capacity in capacities}
    rows = []
    for size in sizes:
        for routing, eviction in wanted:
            row = Replayed(
                routing="",
                requested=routing,
                note="",
                eviction=eviction,
                pool=pool,
                capacity=size,
                layers=len(model.layers),
                experts=model.experts,
                top_k=model.top_k,
            )
            first = _simulate(trace, slice(0, 1), row, initial, 0)
            rows.append(dataclasses.replace(row, routing=first.routing, note=first.note))
    return rows


def _checked_size(capacity: Capacity, model: MoeFacts) -> int:
    size, layers = capacity.of(model.experts), len(model.layers)
    if size < model.top_k:
        raise BudgetError(
            f"{capacity.text} of {model.experts} experts per layer are {size}, and one token uses "
            f"{model.top_k}"
            if capacity.percent is not None
            else f"{size} experts per layer are fewer than the {model.top_k} that one token uses",
            setting="capacity",
            remedy=f"Give at least {model.top_k}, one token cycle ({model.token_cycle} experts in "
            f"{layers} layers)",
        )
    return size
