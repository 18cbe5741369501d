# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast flash and DRAM give experts: published figures, the user's own, or measured ones."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_mobile.base.progress import Progress
from moe_mobile.base.text import digits
from moe_mobile.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from moe_mobile.device.interface import Device
    from moe_mobile.routing.replay import Replayed

BY_FLASH = ("flash_ms_per_token", "expert_ms_per_token")
"""What :meth:`Timing.of` predicts for each flash."""

_MAX_MBPS = 1e6
_MEASURED_EXPERTS = 64


@dataclass(frozen=True)
class Flash:
    """A flash memory and the DRAM, as far as a prediction needs them.

    ``dram_bytes_per_second`` is infinite if unknown.
    """

    name: str
    bytes_per_second: float
    dram_bytes_per_second: float = math.inf

    def ms(self, bytes: float) -> float:
        """Milliseconds that reading takes at this bandwidth, and nothing else in them."""
        return 1000 * bytes / self.bytes_per_second

    def expert_ms(self, read: float, used: float) -> float:
        """Milliseconds for experts of which ``read`` bytes come from flash first, and ``used`` go
        through the processor once each, one after the other."""
        return self.ms(read) + 1000 * used / self.dram_bytes_per_second


@dataclass(frozen=True)
class Timing:
    """What predicts how long a token's experts take.

    Attributes:
        expert_bytes: that a load reads; None: unknown, so nothing is predicted.
        chips: flash memories, each with its DRAM.
    """

    expert_bytes: int | None
    chips: tuple[Flash, ...]

    def of(self, row: Replayed) -> dict[str, Any]:
        """Bytes and milliseconds per token, JSON-ready, the latter by the name of the chip.

        They leave out the latency of requests, computing and the dense layers, and assume that
        nothing overlaps.
        """
        if self.expert_bytes is None:
            unknown = dict.fromkeys(chip.name for chip in self.chips)
            return dict.fromkeys(("bytes_per_token",)) | dict.fromkeys(BY_FLASH, unknown)
        read = row.loads_per_token * self.expert_bytes
        used = (row.hits + row.loads) / row.tokens * self.expert_bytes
        return {
            "bytes_per_token": read,
            "flash_ms_per_token": {chip.name: chip.ms(read) for chip in self.chips},
            "expert_ms_per_token": {chip.name: chip.expert_ms(read, used) for chip in self.chips},
        }

    def as_dict(self) -> dict[str, Any]:
        """The figures that it is made from, JSON-ready."""
        dram = {chip.name: chip.dram_bytes_per_second for chip in self.chips}
        return {
            "expert_bytes": self.expert_bytes,
            "flash_bytes_per_second": {chip.name: chip.bytes_per_second for chip in self.chips},
            "dram_bytes_per_second": {
                name: rate if math.isfinite(rate) else None for name, rate in dram.items()
            },
        }


PROFILES = (
    # AndroBench's sequential reads, Galaxy S23 128 GB: 1.69 GB/s (nominal: 2.1 GB/s). No figure
    # for random reads of an expert's size was found, so a phone may well be slower than this.
    # Its Snapdragon 8 Gen 2 has LPDDR5X-8400 on 64 bits, nominally 67.2 GB/s.
    Flash("ufs3.1", 1.69e9, 67.2e9),
    # PowerInfer-2 (arXiv 2406.06282), Snapdragon 8 Gen 3: random reads of 512 KiB, 3.5 GB/s
    # (sequential 4 GB/s, nominal 4.2 GB/s). BigMoeOnEdge measured less on UFS 4.x for 4 MiB with
    # O_DIRECT on two lanes: 2460 MiB/s cold, 1645 MiB/s hot.
    # LPDDR5X-9600 on 64 bits, nominally 76.8 GB/s.
    Flash("ufs4.0", 3.5e9, 76.8e9),
)


def parse_flash(text: str) -> Flash:
    """The profile of that name, or a bandwidth in MB/s (10^6 bytes), which that of the DRAM may
    follow: ``1200`` or ``1200/30000``. Raises UsageError."""
    for profile in PROFILES:
        if text == profile.name:
            return profile
    try:
        rates = [float(part) for part in text.split("/")]
    except ValueError:
        rates = []
    if len(rates) not in (1, 2) or not all(0 < rate <= _MAX_MBPS for rate in rates):
        names = [profile.name for profile in PROFILES] + ["measured"]
        raise UsageError(
            f"{text!r} is neither a flash memory nor a speed",
            setting="flash",
            remedy=did_you_mean(
                text,
                names,
                f"Give {', '.join(names)}, or MB/s like 1200 or, with the DRAM's, 1200/30000",
            ),
        )
    flash, *dram = rates
    name = f"{'/'.join(digits(rate, 6) for rate in rates)} MB/s"
    return Flash(name, flash * 1e6, dram[0] * 1e6 if dram else math.inf)


def measure_flash(
    device: Device, bundle: Path, expert_bytes: int, progress: Progress | None = None
) -> Flash:
    """Medians over experts of a bundle: one O_DIRECT read at a time, and a forward pass of one row.

    Rates are in ``expert_bytes`` per expert, so that a prediction for such experts gives the times
    that were measured, whatever is packed around them. The DRAM's figure is what the forward pass
    makes of it, computing included. Raises what opening a bundle raises.
    """
    folder = device.place(bundle, progress)
    with device.runner() as runner:
        settings = {"cache": "100%", "context": 16}
        runner.request("open", bundle=folder, settings=settings, progress=progress)
        found = runner.request("measure_misses", count=_MEASURED_EXPERTS)
    read, forward = (statistics.median(found[name]) for name in ("raw_read_ns", "forward_ns"))
    return Flash("measured", expert_bytes * 1e9 / read, expert_bytes * 1e9 / forward)
