# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""On which cores a benchmark runs: a scheduler that moves threads between big and little ones
makes repetitions differ by more than what is measured."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from moe_mobile.device.interface import Cluster, DeviceFacts
from moe_mobile.errors import UsageError

# Little cores of phones reach 58 to 70 % of the fastest core's clock, big ones 81 % and more.
_BIG = 0.8


@dataclasses.dataclass(frozen=True)
class Affinity:
    """A choice of cores. ``policy``: ``big``, ``all`` or ``list``."""

    policy: str
    cpus: tuple[int, ...]

    @property
    def pinned(self) -> tuple[int, ...] | None:
        """Cores to keep the engine to; None leaves it to the system."""
        return None if self.policy == "all" else self.cpus

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {"policy": self.policy, "cpus": list(self.cpus)}


def check_wish(wish: str) -> None:
    """Raise UsageError for a text that cannot name cores of any device."""
    if wish not in ("big", "all"):
        _parse(wish)


def choose(wish: str, facts: DeviceFacts) -> Affinity:
    """The cores for ``big``, ``all`` or a list like ``0-3,7``.

    ``big`` takes the cores that reach 80 % of the fastest one's clock. If that is every core,
    or the kernel does not give the clocks, it becomes ``all``. Raises UsageError for cores that
    the device does not have.
    """
    cores = sorted(cpu for cluster in facts.clusters for cpu in cluster.cpus)
    if wish == "big":
        big = _big(facts.clusters)
        return Affinity("all", tuple(cores)) if big in ([], cores) else Affinity("big", tuple(big))
    if wish == "all":
        return Affinity("all", tuple(cores))
    cpus = _parse(wish)
    lacking = [cpu for cpu in cpus if cpu not in cores]
    if lacking and cores:
        raise UsageError(
            f"{facts.serial} has no core {lacking[0]}: its cores are {', '.join(map(str, cores))}",
            setting="affinity",
            remedy="`moe-mobile devices` lists the cores",
        )
    return Affinity("list", tuple(cpus))


def _big(clusters: Sequence[Cluster]) -> list[int]:
    clocks = [cluster.max_khz for cluster in clusters if cluster.max_khz is not None]
    if len(clocks) < len(clusters) or not clocks:
        return []
    return sorted(
        cpu
        for cluster in clusters
        for cpu in cluster.cpus
        if cluster.max_khz is not None and cluster.max_khz >= _BIG * max(clocks)
    )


def _parse(text: str) -> list[int]:
    cpus: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part, re.ASCII)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UsageError(
                f"{text!r} is neither big nor all nor a list of cores",
                setting="affinity",
                remedy="Write a list like 4-6,7",
            )
        cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(cpus)
