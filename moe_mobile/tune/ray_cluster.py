# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Workers on a Ray cluster. Needs the optional ray: ``pip install 'moe-mobile[ray]'``.

Every machine of the cluster needs this version of moe-mobile, and the model in the same place.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from moe_mobile.base.progress import Progress
from moe_mobile.errors import KilledError, MoeMobileError, RuntimeFailedError, UnsupportedError
from moe_mobile.quality.score import (
    Cache,
    QualitySource,
    measure_quality,
    opened,
)
from moe_mobile.quality.sweep import Scored, Workers

LOCAL = "local"
"""Instead of an address: a cluster of this machine alone, for the time of the work."""

_POLL_S = 0.5
_CPUS = 1
_CONNECT_S = 5.0


def check_ray() -> None:
    """Raise UnsupportedError if ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UnsupportedError(
            "ray is not installed", setting="ray", remedy="pip install 'moe-mobile[ray]'"
        ) from None


def score_on_ray(source: QualitySource, address: str, jobs: int | None) -> Workers:
    """Workers that Ray places, a core for each.

    Args:
        address: ``auto``, the cluster that this machine belongs to; ``HOST:PORT``; :data:`LOCAL`.
        jobs: at most so many at a time; None: as many as the cluster has cores.
    """

    def score(
        token_ids: Sequence[int], wanted: Sequence[Cache], progress: Progress
    ) -> Generator[Scored]:
        import ray

        check_ray()
        with _connected(ray, address, jobs):
            yield from _run(ray, source, token_ids, wanted, jobs, progress)

    return score


def _run(
    ray: Any,
    source: QualitySource,
    token_ids: Sequence[int],
    wanted: Sequence[Cache],
    jobs: int | None,
    progress: Progress,
) -> Generator[Scored]:
    task = ray.remote(num_cpus=_CPUS)(_score)
    ids = ray.put(tuple(token_ids))
    left = list(enumerate(wanted))[::-1]
    running: list[Any] = []
    done = 0
    try:
        while left or running:
            while left and (jobs is None or len(running) < jobs):
                index, cache = left.pop()
                running.append(task.remote(source, ids, cache, index))
            ready, running = ray.wait(running, timeout=_POLL_S)
            for reference in ready:
                yield _result(ray, reference)
            done += len(ready)
            progress("score", done * len(token_ids), len(wanted) * len(token_ids))
    finally:
        for reference in running:
            # What still runs is not wanted any more; the cluster may be gone by now.
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)


def _result(ray: Any, reference: Any) -> Scored:
    """What a task gave. Raises its error, KilledError if its process ended."""
    try:
        scored: Scored = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MoeMobileError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise KilledError(
            f"a worker ended: {str(error).splitlines()[0]}",
            setting="ray",
            remedy="Most likely memory was too small: give fewer `jobs`, or a smaller `capacity`",
        ) from None
    return scored


@contextlib.contextmanager
def _connected(ray: Any, address: str, jobs: int | None) -> Iterator[None]:
    """Raises RuntimeFailedError if there is no such cluster."""
    if ray.is_initialized():
        yield
        return
    _require_listener(address)
    # No usage statistics are sent.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    alone: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            **(alone if address == LOCAL else {}),
        )
    except Exception as error:  # ConnectionError, RuntimeError, ValueError and others
        raise _no_cluster(error) from error
    finally:
        # Ray takes the signals, which end commands here as they should.
        with contextlib.suppress(ValueError):  # not of the main thread
            for number, handler in handlers.items():
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raises RuntimeFailedError for an address where nobody listens: Ray would wait for minutes."""
    match = re.fullmatch(r"([^/:]+):([0-9]{1,5})", address)
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(error) from error


def _no_cluster(error: Exception) -> RuntimeFailedError:
    return RuntimeFailedError(
        f"there is no Ray cluster: {str(error).splitlines()[0]}",
        setting="ray",
        remedy="Start one with `ray start` on its head node, or give local",
    )


def _score(source: QualitySource, token_ids: Sequence[int], cache: Cache, index: int) -> Scored:
    scorer = opened(source)
    return Scored(index, scorer.model, measure_quality(scorer, token_ids, cache))
