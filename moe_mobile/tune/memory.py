# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How many engines can score on this machine at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from moe_mobile.base.progress import Progress
from moe_mobile.device.interface import Device
from moe_mobile.quality.score import Cache
from moe_mobile.routing.capacity import share_text
from moe_mobile.tune.processes import cores

__all__ = ["engines_at_a_time", "fitting_engines"]

_USABLE = 0.8  # of what is available; the rest is left to others


class _PlannedError(Exception):
    """Ends an engine that was asked for its plan only."""


def engines_at_a_time(
    device: Device,
    folder: str,
    settings: Mapping[str, Any],
    caches: Sequence[Cache],
    experts: int,
    progress: Progress | None = None,
) -> int:
    """At least 1: as many as fit into memory, each with a core, or the ``threads`` of ``settings``.

    Args:
        caches: what they score under, at most one at a time.
        experts: per layer.

    Raises as :func:`fitting_engines`.
    """
    share = share_text(max(cache.capacity for cache in caches), experts)
    largest = {**settings, "cache": share, "pool": caches[0].pool}
    fitting = fitting_engines(device, folder, largest, progress)
    return min(fitting, max(1, cores() // int(settings.get("threads", 1))), len(caches))


def fitting_engines(
    device: Device, folder: str, settings: Mapping[str, Any], progress: Progress | None = None
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
    if needed <= 0:
        return 1
    return max(1, int(_USABLE * device.facts().available_bytes) // needed)
