# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The search itself: what is tried, its rows judged, and the speed of what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from moe_mobile.base.progress import Progress, silent
from moe_mobile.bench.driver import bundle_facts
from moe_mobile.bench.store import ResultFile
from moe_mobile.errors import BudgetError, UsageError
from moe_mobile.quality.file import QualityFile
from moe_mobile.quality.score import Cache, Quality, ScoredModel
from moe_mobile.quality.subject import BundleSubject, Subject
from moe_mobile.quality.sweep import Workers, caches, score_here, sweep
from moe_mobile.routing.capacity import Capacity
from moe_mobile.routing.trace import Trace
from moe_mobile.tune.choice import Limit, candidates, with_speeds
from moe_mobile.tune.grid import grid
from moe_mobile.tune.memory import engines_at_a_time
from moe_mobile.tune.outcome import Outcome, text_hash
from moe_mobile.tune.processes import score_in_processes
from moe_mobile.tune.ray_cluster import score_on_ray
from moe_mobile.tune.speed import contenders, measure_speeds

_OF_BENCH = ("residency", "lanes", "threads", "packed_dir")
"""Settings of an engine that its speed depends on."""


def tried_caches(
    model: ScoredModel,
    routings: Sequence[str],
    drop_cold: Sequence[str],
    capacities: Sequence[Capacity],
    *,
    pool: str,
    eviction: str,
    precisions: Sequence[str] = ("full",),
) -> list[Cache]:
    """Everything that is scored: all of :func:`~moe_mobile.tune.grid.grid` in each capacity and
    precision.

    Raises UsageError and BudgetError for settings that make no sense.
    """
    tried = grid(model.experts, model.top_k, routings, drop_cold)
    sizes = {capacity.of(model.experts): capacity.text for capacity in capacities}
    found: list[Cache] = []
    for size, text in sizes.items():
        try:
            found += caches(
                model, tried, [size], pool=pool, eviction=eviction, precisions=precisions
            )
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
        if row.requested == "exact" and not row.lossy:
            limit.change(row)  # raises before the others are scored

    rows = sweep(model, token_ids, tried, workers, file=file, progress=progress, check=check)
    return Outcome(model, limit, text_hash(token_ids), tuple(candidates(rows, limit)))


def workers_for(
    subject: Subject,
    tried: Sequence[Cache],
    *,
    jobs: int | None = None,
    ray: str | None = None,
    progress: Progress = silent,
) -> Workers:
    """Who scores what is tried.

    A phone scores one setting after another, and a checkpoint is in this process's memory once.

    Args:
        jobs: at a time; None: as many as this machine, or the cluster, can run.
        ray: the address of a Ray cluster; None: this machine.
    """
    if ray is not None:
        return score_on_ray(subject.source, ray, jobs)
    if isinstance(subject, BundleSubject):
        if subject.elsewhere:
            jobs = 1
        elif jobs is None:
            jobs = engines_at_a_time(subject, tried, progress)
    if jobs in (None, 1):
        return score_here(subject.scorer)
    return score_in_processes(subject.source, jobs)


def with_measured_speeds(
    outcome: Outcome,
    subject: Subject,
    trace: Trace,
    *,
    file: ResultFile | None = None,
    progress: Progress = silent,
) -> Outcome:
    """The outcome, with speeds of what could be chosen.

    Args and errors of :func:`measure_speeds`; UsageError too for a checkpoint.
    """
    if not isinstance(subject, BundleSubject):
        raise UsageError(
            "only the engine's speed is measured, and this is a checkpoint",
            setting="measure_speed",
            remedy="Export the model, and name the bundle",
        )
    rivals = [one for size in outcome.capacities for one in contenders(outcome.of(size))]
    speeds = measure_speeds(
        subject.device,
        bundle_facts(subject.bundle),
        rivals,
        trace,
        engine={name: value for name, value in subject.settings.items() if name in _OF_BENCH},
        file=file,
        progress=progress,
    )
    return dataclasses.replace(outcome, found=tuple(with_speeds(outcome.found, speeds)))
