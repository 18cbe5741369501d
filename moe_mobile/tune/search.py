# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The search itself: what is tried, its rows judged, and the speed of what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from moe_mobile.base.progress import Progress, silent
from moe_mobile.bench.driver import BundleFacts
from moe_mobile.bench.store import ResultFile
from moe_mobile.device.interface import Device
from moe_mobile.errors import BudgetError, UsageError
from moe_mobile.quality.file import QualityFile
from moe_mobile.quality.score import Cache, Quality, ScoredModel
from moe_mobile.quality.sweep import Workers, caches, sweep
from moe_mobile.routing.capacity import Capacity
from moe_mobile.routing.trace import Trace
from moe_mobile.tune.choice import Limit, candidates, with_speeds
from moe_mobile.tune.grid import grid
from moe_mobile.tune.outcome import Outcome, text_hash
from moe_mobile.tune.speed import contenders, measure_speeds

__all__ = ["search", "tried_caches", "with_measured_speeds"]


def tried_caches(
    model: ScoredModel,
    routings: Sequence[str],
    drop_cold: Sequence[str],
    capacities: Sequence[Capacity],
    *,
    pool: str,
    eviction: str,
) -> list[Cache]:
    """Everything that is scored: all of :func:`~moe_mobile.tune.grid.grid` in each capacity.

    Raises UsageError and BudgetError for settings that make no sense.
    """
    tried = grid(model.experts, model.top_k, routings, drop_cold)
    sizes = {capacity.of(model.experts): capacity.text for capacity in capacities}
    found: list[Cache] = []
    for size, text in sizes.items():
        try:
            found += caches(model, tried, [size], pool=pool, eviction=eviction)
        except (UsageError, BudgetError) as error:
            if error.setting != "capacity":
                raise
            raise type(error)(
                f"{text}: {error.cause}",
                setting=error.setting,
                remedy=f"Give {model.top_k} to {model.experts} experts per layer, or a share such "
                "as 50%",
            ) from error
    return found


def search(
    model: ScoredModel,
    token_ids: Sequence[int],
    tried: Sequence[Cache],
    limit: Limit,
    workers: Workers,
    *,
    file: QualityFile | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Score a text under everything that is tried, and judge it. Args and errors of :func:`sweep`.

    Raises UsageError too if exact routing is not within the limit.
    """

    def check(row: Quality) -> None:
        if row.requested == "exact":
            limit.change(row)  # raises before the others are scored

    rows = sweep(model, token_ids, tried, workers, file=file, progress=progress, check=check)
    return Outcome(model, limit, text_hash(token_ids), tuple(candidates(rows, limit)))


def with_measured_speeds(
    outcome: Outcome,
    device: Device,
    bundle: BundleFacts,
    trace: Trace,
    *,
    engine: Mapping[str, Any],
    file: ResultFile | None = None,
    progress: Progress,
) -> Outcome:
    """The outcome, with speeds of what could be chosen.

    Args and errors of :func:`measure_speeds`.
    """
    sizes = outcome.capacities
    rivals = [one for capacity in sizes for one in contenders(outcome.of(capacity))]
    speeds = measure_speeds(
        device, bundle, rivals, trace, engine=engine, file=file, progress=progress
    )
    return dataclasses.replace(outcome, found=tuple(with_speeds(outcome.found, speeds)))
