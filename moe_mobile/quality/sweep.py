# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a text under many routings, by whatever workers there are, and keeps the rows."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from moe_mobile.base.progress import Progress, part_of, silent
from moe_mobile.errors import RuntimeFailedError
from moe_mobile.quality.file import QualityFile, score_key
from moe_mobile.quality.score import (
    Cache,
    Quality,
    ScoredModel,
    Scorer,
    measure_quality,
    open_run,
    sequences_of,
)


@dataclass(frozen=True)
class Scored:
    """What a worker found: the row of the ``index``-th cache, of the model as it was there."""

    index: int
    model: ScoredModel
    row: Quality


class Workers(Protocol):
    """Who scores a text under several caches. Rows come in the order in which they are complete."""

    def __call__(
        self, token_ids: Sequence[int], wanted: Sequence[Cache], progress: Progress
    ) -> Generator[Scored]: ...


def score_here(scorer: Scorer) -> Workers:
    """One after another in this process, by a source that is open."""

    def score(
        token_ids: Sequence[int], wanted: Sequence[Cache], progress: Progress
    ) -> Generator[Scored]:
        tokens = sum(map(len, sequences_of(token_ids, scorer.model)))
        for index, cache in enumerate(wanted):
            steps = (index * tokens, (index + 1) * tokens, len(wanted) * tokens)
            report = part_of(progress, "score", *steps)
            yield Scored(
                index, scorer.model, measure_quality(scorer, token_ids, cache, progress=report)
            )

    return score


def caches(
    model: ScoredModel,
    routings: Sequence[str],
    capacities: Sequence[int],
    *,
    pool: str,
    eviction: str,
    precisions: Sequence[str] = ("full",),
) -> list[Cache]:
    """Every routing in every precision, one capacity after the other.

    Exact routing comes first in each precision, and first of all in full precision, with which the
    others are compared. Raises UsageError and BudgetError if one makes no sense.
    """
    tried = [("full", "exact"), *itertools.product(precisions, ["exact", *routings])]
    found = [
        Cache(routing, capacity, pool, eviction, precision)
        for capacity in dict.fromkeys(capacities)
        for precision, routing in dict.fromkeys(tried)
    ]
    for cache in found:
        open_run(model, cache)
    return found


def sweep(
    model: ScoredModel,
    token_ids: Sequence[int],
    wanted: Sequence[Cache],
    workers: Workers,
    *,
    file: QualityFile | None = None,
    progress: Progress = silent,
    check: Callable[[Quality], object] | None = None,
) -> list[Quality]:
    """A row for each cache, in their order.

    Args:
        model: what the workers score; they may not meet another.
        file: has rows that are not scored again, and gets each new one at once.
        check: sees every row, and may raise.

    Raises:
        RuntimeFailedError: a worker met another model.
        MoeMobileError: what scoring raises.
    """
    sequences = sequences_of(token_ids, model)
    keys = [score_key(model, sequences, cache) for cache in wanted]
    rows: dict[int, Quality] = {}
    for index, key in enumerate(keys):
        known = None if file is None else file.take(key, model, sequences, wanted[index])
        if known is not None:
            rows[index] = known
    for row in rows.values():
        if check is not None:
            check(row)
    left = [index for index in range(len(wanted)) if index not in rows]
    if left:
        # Of all settings, with those that were scored before.
        tokens = sum(map(len, sequences))
        before, total = len(rows) * tokens, len(wanted) * tokens
        text = f"{len(wanted)} settings"
        progress("score", before, total, text)
        report = part_of(progress, "score", before, total, total)
        found = workers(
            token_ids,
            [wanted[index] for index in left],
            lambda stage, done, of, detail="": report(stage, done, of, text),
        )
        # Closed at once if something here fails, so that workers end then.
        with contextlib.closing(found):
            for scored in found:
                check_alike(model, scored.model)
                index = left[scored.index]
                rows[index] = scored.row
                if file is not None:
                    file.append(keys[index], model, scored.row)
                if check is not None:
                    check(scored.row)
    return [rows[index] for index in range(len(wanted))]


def check_alike(model: ScoredModel, met: ScoredModel) -> None:
    """Raises RuntimeFailedError if a worker met another model. The machine may be another."""
    if dataclasses.replace(met, identity=model.identity) != model:
        raise RuntimeFailedError(
            f"a worker scored {met.name} from {met.source_id}, not {model.name} from "
            f"{model.source_id}",
            setting="ray",
            remedy="Let every machine have the same model in the same place",
        )
