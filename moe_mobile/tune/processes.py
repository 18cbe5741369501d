# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Workers in processes of this machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from moe_mobile.base.progress import Progress
from moe_mobile.errors import CancelledError, KilledError
from moe_mobile.quality.score import (
    Cache,
    QualitySource,
    measure_quality,
    opened,
)
from moe_mobile.quality.sweep import Scored, Workers

_POLL_S = 0.2

# Of a worker: set by _begin.
_stop: Any = None
_scored: Any = None


def score_in_processes(source: QualitySource, jobs: int) -> Workers:
    """A pool of ``jobs`` processes, each with a source of its own.

    They are started with ``spawn``, without the threads and the memory of this process.
    """

    def score(
        token_ids: Sequence[int], wanted: Sequence[Cache], progress: Progress
    ) -> Generator[Scored]:
        context = multiprocessing.get_context("spawn")
        stop, scored = context.Event(), context.Value("q", 0)
        total = len(token_ids) * len(wanted)
        pool = concurrent.futures.ProcessPoolExecutor(
            min(jobs, len(wanted)), context, initializer=_begin, initargs=(stop, scored)
        )
        try:
            with _without_interrupts():
                waiting = {
                    pool.submit(_score, source, tuple(token_ids), cache, index)
                    for index, cache in enumerate(wanted)
                }
            while waiting:
                done, waiting = concurrent.futures.wait(
                    waiting, _POLL_S, concurrent.futures.FIRST_COMPLETED
                )
                progress("score", min(scored.value, total), total)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise KilledError(
                "a worker process ended, mostly for lack of memory",
                setting="jobs",
                remedy="Give fewer jobs, or a smaller `capacity`",
            ) from None
        finally:
            # What still runs is not wanted any more.
            stop.set()
            pool.shutdown(cancel_futures=True)

    return score


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits, and processes that start meanwhile never get it: it goes to the whole group,
    and would end them with a traceback before :func:`_begin`. The parent says when to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stop: Any, scored: Any) -> None:
    """Of a worker process, before its first task."""
    global _stop, _scored
    _stop, _scored = stop, scored
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _score(source: QualitySource, token_ids: Sequence[int], cache: Cache, index: int) -> Scored:
    last = 0

    def report(stage: str, done: int, total: int, detail: str = "") -> None:
        nonlocal last
        if _stop.is_set():
            raise CancelledError("stopped by the user")
        with _scored.get_lock():
            _scored.value += done - last
        last = done

    scorer = opened(source)
    return Scored(index, scorer.model, measure_quality(scorer, token_ids, cache, progress=report))
