# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A device with the bundle on it: what rows are measured on."""

from __future__ import annotations

import dataclasses
import secrets

import moe_mobile
from moe_mobile.base.progress import Progress, silent
from moe_mobile.bench import driver
from moe_mobile.bench.affinity import Affinity, choose
from moe_mobile.bench.build import build
from moe_mobile.bench.driver import BundleFacts, Cell
from moe_mobile.bench.regime import regime
from moe_mobile.device.interface import Device, DeviceFacts


@dataclasses.dataclass
class Target:
    """A device with the bundle on it, ready to be measured.

    ``session``: a random name for what is measured by one command on one device.
    """

    device: Device
    facts: DeviceFacts
    folder: str
    bundle: BundleFacts
    affinity: Affinity
    session: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))

    @property
    def spare_cpus(self) -> list[int]:
        """Cores that the engine is kept from."""
        pinned = self.affinity.pinned
        every = [cpu for cluster in self.facts.clusters for cpu in cluster.cpus]
        return [] if pinned is None else [cpu for cpu in every if cpu not in pinned]

    def resolve(self, row: Cell) -> Cell:
        """A row with what it leaves to the benchmark: the context its test needs, as llama-bench
        has it, and a thread per core that the engine is kept to."""
        test, settings = row
        pinned = self.affinity.pinned
        return test, dataclasses.replace(
            settings,
            context=test.positions if settings.context is None else settings.context,
            threads=len(pinned) if settings.threads is None and pinned else settings.threads,
        )

    def key(self, row: Cell, protocol: driver.Protocol) -> str:
        """Identifies a row among all that were ever measured, see :func:`driver.run_key`."""
        test, settings = self.resolve(row)
        facts = self.facts
        return driver.run_key(
            {
                "bundle": self.bundle.bundle_hash,
                # Not adb's serial: that of a phone on Wi-Fi is another after each connection.
                "device": [facts.identity, facts.model, facts.ram_bytes, facts.limit],
                "settings": settings.as_request(),
                "affinity": self.affinity.as_dict(),
                "test": dataclasses.asdict(test),
                "repetitions": protocol.repetitions,
                "regime": regime(protocol),
                "version": moe_mobile.__version__,
                "build": build()[0],
            }
        )


def open_target(
    device: Device,
    bundle: BundleFacts,
    *,
    affinity: str = "big",
    packed_dir: str | None = None,
    progress: Progress = silent,
) -> Target:
    """Send to a device what is missing there, and pack the weights, so that no row's time includes
    this.

    Raises UsageError for cores it does not have, DiskFullError, DeviceError, and the engine's
    errors.
    """
    facts = device.facts()
    chosen = choose(affinity, facts)
    folder = device.place(bundle.path, progress)
    with device.runner() as runner:
        runner.request("prepare", bundle=folder, packed_dir=packed_dir, progress=progress)
    return Target(device, facts, folder, bundle, chosen)
