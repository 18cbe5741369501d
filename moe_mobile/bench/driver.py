# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a grid of tests, each in a fresh runner process so that its memory figures are its own."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import moe_mobile
from moe_mobile.bench import host
from moe_mobile.bench.results import BenchResult, BenchTest, summarize
from moe_mobile.errors import UsageError
from moe_mobile.runner import Progress, Runner

__all__ = ["BundleFacts", "Settings", "grid", "run_test"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Engine settings of one row; None leaves the choice to the engine."""

    cache: str = "50%"
    residency: str = "slots"
    routing: str = "exact"
    lanes: int = 2
    threads: int | None = None
    context: int | None = None
    packed_dir: str | None = None
    allow_below_cycle: bool = False

    def as_request(self) -> dict[str, Any]:
        """The `settings` member of the runner's `open` request."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


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


def grid(
    tests: Sequence[BenchTest],
    base: Settings,
    *,
    caches: Sequence[str],
    residencies: Sequence[str],
    lanes: Sequence[int],
    threads: Sequence[int | None],
) -> list[tuple[BenchTest, Settings]]:
    """Every combination, tests innermost, in the order the user gave them."""
    combinations = itertools.product(residencies, caches, lanes, threads)
    settings = [
        dataclasses.replace(base, residency=residency, cache=cache, lanes=lane, threads=thread)
        for residency, cache, lane, thread in combinations
    ]
    return [(test, setting) for setting in settings for test in tests]


def check_settings(rows: Iterable[Settings]) -> None:
    """Raise the UsageError of a row's settings before anything is measured."""
    from moe_mobile import _native

    for row in rows:
        _native.check_settings(json.dumps(row.as_request()))


def check_fits(tests: Sequence[BenchTest], facts: BundleFacts, context: int | None) -> None:
    """Raise UsageError where a test needs more positions than the context has."""
    limit = facts.context_length if context is None else context
    for test in tests:
        needed = test.positions
        if needed > limit:
            what = "context of this model" if context is None else "chosen context"
            raise UsageError(
                f"{test.name} needs {needed} positions, but the {what} has {limit}",
                file=facts.path,
                remedy=f"Make the sum of -p and -n at most {limit}",
            )


def run_test(
    test: BenchTest,
    settings: Settings,
    facts: BundleFacts,
    *,
    repetitions: int = 5,
    warmup: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    runner_binary: str | os.PathLike[str] | None = None,
) -> BenchResult:
    """Measure one row in a process of its own.

    Without a wish for a context, it is what the test needs, as in llama-bench. Raises the typed
    errors of the runner.
    """
    if settings.context is None:
        settings = dataclasses.replace(settings, context=test.positions)
    began = datetime.datetime.now(datetime.UTC)
    with Runner(runner_binary) as runner:
        info = runner.request(
            "open", bundle=str(facts.path), settings=settings.as_request(), progress=progress
        )
        answer = runner.request(
            "bench",
            n_prompt=test.n_prompt,
            n_gen=test.n_gen,
            repetitions=repetitions,
            warmup=warmup,
            seed=seed,
            progress=progress,
        )
    commit, number = host.build()
    return summarize(
        test,
        answer["samples"],
        {
            "build_commit": commit,
            "build_number": number,
            "cpu_info": host.cpu_info(),
            "gpu_info": "",
            "backends": facts.backend,
            "model_filename": str(facts.path),
            "model_type": facts.model_type,
            "model_size": facts.model_size,
            "model_n_params": facts.num_parameters,
            "n_batch": facts.max_batch,
            "n_ubatch": facts.max_batch,
            "n_threads": int(info["threads"]),
            "test_time": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "version": moe_mobile.__version__,
            "executorch_version": host.executorch_version(),
            "bundle_hash": info["bundle_hash"],
            "config": info["settings"],
            "plan": info["plan"],
            "direct_io": bool(info["direct_io"]),
            "fallbacks": list(info["fallbacks"]),
            "load_ms": float(info["load_ms"]),
        },
    )
