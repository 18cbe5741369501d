# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Stepwise perplexity of a bundle in the engine, here or on a phone."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moe_mobile.base.progress import Progress, silent
from moe_mobile.base.routings import is_lossy
from moe_mobile.bundle import inspect_bundle, read_manifest
from moe_mobile.device.interface import Device
from moe_mobile.device.select import open_device
from moe_mobile.errors import BudgetError, RuntimeFailedError, UsageError
from moe_mobile.quality.score import (
    Cache,
    ScoredModel,
    Scorer,
    ScoreSequence,
    SequenceScore,
)
from moe_mobile.routing.capacity import share_text
from moe_mobile.routing.facts import MoeFacts
from moe_mobile.routing.run import RoutingRun
from moe_mobile.runner import Runner
from moe_mobile.settings import DEFAULT_CONTEXT


@dataclass(frozen=True)
class EngineSource:
    """A bundle's folder, and where its engine runs.

    Attributes:
        device: its serial; None: this machine.
        settings: of the runner's ``open`` request, sorted pairs, without those of :class:`Cache`.
    """

    bundle: str
    device: str | None = None
    settings: tuple[tuple[str, str | int | bool], ...] = ()

    def open(self, progress: Progress = silent) -> EngineScorer:
        """Raises what opening a bundle and a device does."""
        return EngineScorer(
            open_device(self.device), Path(self.bundle), dict(self.settings), progress=progress
        )


class EngineScorer(Scorer):
    """A bundle, sent to its place when it is scored first.

    A fresh process of the engine scores under each routing.
    """

    def __init__(
        self,
        device: Device,
        bundle: Path,
        settings: dict[str, Any],
        *,
        progress: Progress = silent,
    ) -> None:
        """``settings``: see :class:`EngineSource`."""
        if settings.get("residency") == "resident":
            raise UsageError(
                "all experts are in memory, so there is no cache to score with",
                setting="residency",
                remedy="Choose slots or programs",
            )
        manifest = read_manifest(bundle)
        longest = manifest.model.context_length
        self._device, self._bundle = device, bundle
        self._settings, self._progress = settings, progress
        self.place = device.serial
        self.model = ScoredModel(
            **vars(MoeFacts.of_bundle(manifest)),
            source="engine",
            source_id=inspect_bundle(bundle)["hash"],
            identity=device.facts().identity,
            vocab_size=manifest.model.vocab_size,
            context=settings.get("context") or min(longest, DEFAULT_CONTEXT),
        )

    @functools.cached_property
    def _folder(self) -> str:
        return self._device.place(self._bundle, self._progress)

    @contextlib.contextmanager
    def _scoring(self, cache: Cache, run: RoutingRun) -> Iterator[ScoreSequence]:
        folder = self._folder  # first: a phone may not have the engine
        with self._device.runner() as runner:
            self._open(runner, folder, cache, run)

            def score(token_ids: Sequence[int], progress: Progress) -> SequenceScore:
                answer = runner.request("score", token_ids=list(token_ids), progress=progress)
                return _score(runner, answer, len(token_ids), self.model, run.routing)

            yield score

    def _open(self, runner: Runner, folder: str, cache: Cache, run: RoutingRun) -> None:
        """The bundle with this routing, precision and cache, and nothing else."""
        layers, experts = len(self.model.layers), self.model.experts
        settings = {
            **self._settings,
            # An automatic value depends on how many experts are cached, which in two precisions is
            # not quite the capacity.
            "routing": run.routing if cache.is_mixed else cache.routing,
            "precision": cache.precision,
            "pool": cache.pool,
            "eviction": cache.eviction,
            "initial_cache": "cold",
            "cache": share_text(cache.capacity, experts),
        }
        info = runner.request("open", bundle=folder, settings=settings, progress=self._progress)
        slots, wanted = info["plan"]["slots"], cache.capacity * layers
        # Two precisions share the memory by their ranks.
        if slots != wanted and not cache.is_mixed:
            raise BudgetError(
                f"the engine holds {slots} experts instead of {wanted}",
                setting="capacity",
                remedy="Use the settings of an engine that streams, residency slots or programs",
            )
        resolved = info["routing"]["resolved"]
        if resolved != run.routing:
            raise RuntimeFailedError(
                f"the engine made {resolved} of {cache.routing}, and this program {run.routing}",
                file=runner.name,
                remedy="Build both from the same version",
            )


def _score(
    runner: Runner, answer: dict[str, Any], tokens: int, model: ScoredModel, routing: str
) -> SequenceScore:
    try:
        values = np.array(answer["log_probabilities"], np.float64)
        totals = answer["stats"]["totals"]
        hits, loads, dropped = (int(totals[name]) for name in ("hits", "misses", "dropped"))
        changed, read = int(totals["slots_changed_by_routing"]), int(totals["bytes_read"])
        if values.shape != (tokens - 1,):
            raise ValueError(f"{values.size} values")
        slots = tokens * len(model.layers) * model.top_k
        used = hits + loads + dropped
        if (
            used > slots
            or (used < slots and not model.router.may_select_fewer)
            or changed > slots
            or read < 0
        ):
            raise ValueError(f"its counts are not those of {slots} slots")
        if (changed or dropped) and not is_lossy(routing):
            raise ValueError(f"its counts are not those of routing {routing}")
    except (KeyError, TypeError, ValueError) as error:
        raise RuntimeFailedError(
            f"moe_runner did not give the log-probabilities of {tokens} tokens: {error}",
            file=runner.name,
            remedy=runner.remedy("Run `moe-mobile doctor`; the engine may be of another version"),
        ) from error
    # The engine calls a miss what is read.
    return SequenceScore(values, hits, loads + dropped, dropped, changed, read)
