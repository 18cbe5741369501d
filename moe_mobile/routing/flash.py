# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast flash gives experts: published figures, and numbers of the user's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe_mobile.errors import UsageError

__all__ = ["PROFILES", "Flash", "parse_flash"]

_MAX_MBPS = 1e6


@dataclass(frozen=True)
class Flash:
    """A flash memory, as far as a prediction needs it."""

    name: str
    bytes_per_second: float

    def ms(self, bytes: float) -> float:
        """Milliseconds that reading takes at this bandwidth, and nothing else in them."""
        return 1000 * bytes / self.bytes_per_second


PROFILES = (
    # AndroBench's sequential reads, Galaxy S23 128 GB: 1.69 GB/s (nominal: 2.1 GB/s). No figure
    # for random reads of an expert's size was found, so a phone may well be slower than this.
    Flash("ufs3.1", 1.69e9),
    # PowerInfer-2 (arXiv 2406.06282), Snapdragon 8 Gen 3: random reads of 512 KiB, 3.5 GB/s
    # (sequential 4 GB/s, nominal 4.2 GB/s). BigMoeOnEdge measured less on UFS 4.x for 4 MiB with
    # O_DIRECT on two lanes: 2460 MiB/s cold, 1645 MiB/s hot.
    Flash("ufs4.0", 3.5e9),
)


def parse_flash(text: str) -> Flash:
    """The profile of that name, or a bandwidth in MB/s (10^6 bytes). Raises UsageError."""
    for profile in PROFILES:
        if text == profile.name:
            return profile
    try:
        mbps = float(text)
    except ValueError:
        mbps = math.nan
    if not 0 < mbps <= _MAX_MBPS:
        names = ", ".join(profile.name for profile in PROFILES)
        raise UsageError(
            f"{text!r} is no flash", setting="--flash", remedy=f"Give {names} or a number of MB/s"
        )
    return Flash(f"{mbps:g} MB/s", mbps * 1e6)
