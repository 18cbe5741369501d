# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How many engines can score on this machine at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from moe_mobile.base.cores import cores
from moe_mobile.base.progress import Progress, silent
from moe_mobile.device.interface import Device
from moe_mobile.quality.score import Cache
from moe_mobile.quality.subject import BundleSubject
from moe_mobile.routing.capacity import share_text

_USABLE = 0.8  # of what is available; the rest is left to others


class _PlannedError(Exception):
    """Ends an engine that was asked for its plan only."""


def engines_at_a_time(
    subject: BundleSubject, caches: Sequence[Cache], progress: Progress = silent
) -> int:
    """At least 1: as many as fit into this machine's memory, each with a core, or the ``threads``
    of the subject's settings, and with one of the caches. Raises as :func:`fitting_engines`."""
    experts, threads = subject.scorer.model.experts, subject.settings.get("threads", 1)
    share = share_text(max(cache.capacity for cache in caches), experts)
    # Two precisions at once need more memory than either.
    most = next((cache for cache in caches if cache.is_mixed), caches[0])
    largest = {"cache": share, "pool": most.pool, "precision": most.precision}
    settings = subject.settings | largest
    fitting = fitting_engines(subject.device, str(subject.bundle), settings, progress)
    return min(fitting, max(1, cores() // int(threads)), len(caches))


def fitting_engines(
    device: Device, folder: str, settings: Mapping[str, Any], progress: Progress = silent
) -> int:
    """At least 1. The engine packs the weights first, if they are not packed yet.

    ``settings``: of the runner's ``open`` request; raises what that raises.
    """
    found: dict[str, Any] = {}

    def stop(plan: dict[str, Any]) -> None:
        found.update(plan)
        raise _PlannedError

    with device.runner() as runner:
        packed_dir = settings.get("packed_dir")
        runner.request("prepare", bundle=folder, packed_dir=packed_dir, progress=progress)
        # It reports its plan before it takes any memory.
        with contextlib.suppress(_PlannedError):
            runner.request(
                "open", bundle=folder, settings=settings, progress=progress, planned=stop
            )
    needed = int(found.get("total_bytes") or 0)
    available = device.facts().available_bytes
    if needed <= 0 or available is None:
        return 1
    return max(1, int(_USABLE * available) // needed)
