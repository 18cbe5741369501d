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
from moe_mobile.errors import UsageError, did_you_mean

# Below this share of the fastest core's capacity, a core is little for certain. So it is below this
# share of its clock, since no core does more per cycle than the fastest one. A larger share of the
# clock says nothing: middle cores have 73 % (Kirin 990), little ones up to 100 %.
_LEAST = 0.5
# Little cores of mid-range chips come closer (mt8183: the Cortex-A53 has the clock of the A73, and
# 741 of its 1024), but Cortex-A53, A55, A510 and A520 do not run above this clock.
_LITTLE_KHZ = 2_300_000


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

    ``big`` leaves out the little cores: those with less than half of the fastest one's capacity,
    and the weakest ones if their clock is one that little cores have. Where the kernel gives no
    capacities, or the same to all, clocks stand for them. If nothing is left out, or the kernel
    gives no clocks either, it becomes ``all``. Raises UsageError for cores that the device does not
    have.
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
            remedy="Name some of these",
        )
    return Affinity("list", tuple(cpus))


def _big(clusters: Sequence[Cluster]) -> list[int]:
    """The cores that are not little; empty if nothing tells them apart."""
    strengths = [cluster.capacity or 0 for cluster in clusters]
    # Without a statement of the device tree, arm's kernels give all cores the same.
    if 0 in strengths or len(set(strengths)) == 1:
        strengths = [cluster.max_khz or 0 for cluster in clusters]
    if not strengths or 0 in strengths:
        return []
    weakest, strongest = min(strengths), max(strengths)
    big: list[int] = []
    for cluster, strength in zip(clusters, strengths, strict=True):
        slow = cluster.max_khz is not None and cluster.max_khz <= _LITTLE_KHZ
        is_little = strength < _LEAST * strongest or (strength == weakest < strongest and slow)
        big += () if is_little else cluster.cpus
    return sorted(big)


def _parse(text: str) -> list[int]:
    cpus: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part, re.ASCII)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UsageError(
                f"{text!r} is neither big nor all nor a list of cores",
                setting="affinity",
                remedy=did_you_mean(text, ("big", "all"), "Write a list like 4-6,7"),
            )
        cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(cpus)
