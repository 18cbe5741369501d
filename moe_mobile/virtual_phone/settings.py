# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a virtual phone is, and how it may misbehave."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from moe_mobile.base.json_text import json_text
from moe_mobile.base.text import BYTE_UNITS
from moe_mobile.errors import UsageError

SMALLEST_RAM = 16 << 20
"""Bytes in which a phone's shell works."""

SHELL_ID = 2000
"""User and group of everything that adb does on a phone (Android's AID_SHELL)."""

ABIS = {"x86_64": "x86_64", "arm64-v8a": "aarch64"}
"""Android's name of an instruction set: the kernel's name of it."""

LIMITERS = ("cgroup2", "cgroup1", "systemd", "watchdog")
"""Ways to limit memory, in the order they are tried."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_SMALLEST_FLASH = 16 << 20
_THERMAL_STATUSES = range(7)


def host_abi() -> str:
    """The ABI this machine's processor runs itself."""
    machine = os.uname().machine
    for abi, name in ABIS.items():
        if name == machine:
            return abi
    raise UsageError(
        f"virtual phones do not run on {machine}", remedy="Use an x86-64 Linux machine"
    )


@dataclass(frozen=True)
class Misbehaviour:
    """What is to change; None leaves a thing as it is.

    Attributes:
        drop_after_received: close the connection once so many further bytes came in (0: never).
        drop_after_sent: the same, for bytes that went out.
        drop_again: do so every time after so many bytes, not only once.
        unauthorized: refuse every key, as a phone on which nobody tapped "Allow".
        offline: accept connections and never say a word.
        full: leave no free byte in /data.
        reboot: seconds to stay away: everything is killed, /data is kept.
        thermal_status: 0 (none) to 6 (shutdown); temperatures and reported clocks follow.
        battery_level: percent.
        battery_temperature: degrees Celsius.
        charging: whether the charger is plugged in.
        kill: name (comm) of a process to kill as the low-memory killer does.
    """

    drop_after_received: int | None = None
    drop_after_sent: int | None = None
    drop_again: bool | None = None
    unauthorized: bool | None = None
    offline: bool | None = None
    full: bool | None = None
    reboot: float | None = None
    thermal_status: int | None = None
    battery_level: int | None = None
    battery_temperature: float | None = None
    charging: bool | None = None
    kill: str | None = None

    def __post_init__(self) -> None:
        _within("drop_after_received", self.drop_after_received, 0, 1 << 62, _bytes)
        _within("drop_after_sent", self.drop_after_sent, 0, 1 << 62, _bytes)
        _within("reboot", self.reboot, 0, 3600)
        _within("thermal_status", self.thermal_status, 0, max(_THERMAL_STATUSES))
        _within("battery_level", self.battery_level, 0, 100)
        _within("battery_temperature", self.battery_temperature, -40, 120)

    def changes(self) -> dict[str, Any]:
        """The members that are set."""
        members = dataclasses.asdict(self).items()
        return {name: value for name, value in members if value is not None}


@dataclass(frozen=True)
class PhoneSettings:
    """A virtual phone to start.

    Attributes:
        name: letters, digits, "_" and "-", at most 32; None picks phone1, phone2, ...
        abi: "x86_64" or "arm64-v8a"; None is this machine's. arm64 runs through qemu-user.
        ram: bytes that its processes may use together; None sets no limit.
        flash_mbps: 10^6 bytes a second read or written past the page cache; None sets no limit.
        link_mbps: 10^6 bytes a second that adb's connection carries each way; None sets no limit.
        flash_size: bytes of /data; None takes what is cheap (see docs/virtual-phone.md).
        limiter: one of LIMITERS, to insist on one; None takes the first that works.
        misbehaviour: how it behaves from its first connection on.
    """

    name: str | None = None
    abi: str | None = None
    ram: int | None = None
    flash_mbps: int | None = None
    link_mbps: int | None = None
    flash_size: int | None = None
    limiter: str | None = None
    misbehaviour: Misbehaviour = field(default_factory=Misbehaviour)

    def __post_init__(self) -> None:
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is not a name for a phone",
                setting="name",
                remedy="Use 1 to 32 letters, digits, - and _, not - or _ first",
            )
        if self.abi is not None and self.abi not in ABIS:
            raise UsageError(
                f"{self.abi!r} is not an ABI", setting="abi", remedy=f"Use one of {', '.join(ABIS)}"
            )
        if self.limiter is not None and self.limiter not in LIMITERS:
            raise UsageError(
                f"{self.limiter!r} is not a limiter",
                setting="limiter",
                remedy=f"Use one of {', '.join(LIMITERS)}",
            )
        _within("ram", self.ram, SMALLEST_RAM, 1 << 50, _bytes)
        _within("flash_mbps", self.flash_mbps, 1, 1_000_000)
        _within("link_mbps", self.link_mbps, 1, 1_000_000)
        _within("flash_size", self.flash_size, _SMALLEST_FLASH, 1 << 46, _bytes)

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json_text(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PhoneSettings:
        """The settings that `to_json` wrote."""
        members = json.loads(text)
        members["misbehaviour"] = Misbehaviour(**members["misbehaviour"])
        return cls(**members)


def _bytes(value: float) -> str:
    """A size in the largest binary unit that needs no fraction."""
    names = ("B", "KiB", "MiB", "GiB", "TiB")
    whole = [name for name in names if value >= BYTE_UNITS[name] and value % BYTE_UNITS[name] == 0]
    name = whole[-1] if whole else "B"
    return f"{int(value) // BYTE_UNITS[name]}{name}"


def _within(
    setting: str,
    value: float | None,
    least: int,
    most: int,
    text: Callable[[float], str] = str,
) -> None:
    if value is not None and not least <= value <= most:
        raise UsageError(
            f"{text(value)} is out of range",
            setting=setting,
            remedy=f"Use {text(least)} to {text(most)}",
        )
