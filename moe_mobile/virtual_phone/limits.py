# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The limits of a phone by whichever way this machine allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moe_mobile.errors import UnsupportedError
from moe_mobile.virtual_phone import groups
from moe_mobile.virtual_phone.settings import PhoneSettings

__all__ = ["Limits", "make_limits"]


@dataclass(frozen=True)
class Limits:
    """What holds a phone to its settings.

    Attributes:
        limiter: what limits memory: one of settings.LIMITERS, None without a limit.
        memory_kind: "hard" (the kernel refuses), "soft" (sampled) or "none".
        flash_kind: "hard" or "none".
        memory_group: the group that limits memory, where one does.
    """

    limiter: str | None
    memory_kind: str
    flash_kind: str
    memory_group: groups.Group | None
    _all: tuple[groups.Group, ...]

    def adopt(self, pid: int) -> None:
        """Put process 1 of the phone under the limits."""
        for group in self._all:
            group.adopt(pid)

    def remove(self) -> None:
        """Give the limits up, once the phone's last process is gone."""
        for group in self._all:
            group.remove()


_MAKERS = {
    "cgroup2": groups.group_2,
    "cgroup1": groups.group_1,
    "systemd": groups.own_group_2,
}


def make_limits(settings: PhoneSettings, data: Path, name: str) -> Limits:
    """Set up what `settings` ask for; `data` is where /data lies.

    Raises:
        UnsupportedError: the limiter that was asked for does not work here.
    """
    memory = limiter = None
    if settings.ram is not None:
        for kind in [settings.limiter] if settings.limiter else [*_MAKERS, "watchdog"]:
            if kind == "watchdog":
                limiter = kind
                break
            memory = _MAKERS[kind](name, memory=True, flash=False)
            if memory is not None:
                memory.limit_memory(settings.ram)
                limiter = kind
                break
        if limiter is None:
            raise UnsupportedError(
                f"memory cannot be limited by {settings.limiter} on this machine",
                setting="limiter",
                remedy="Let it choose",
            )
    flash = _limit_flash(settings, data, f"{name}-flash")
    made = tuple(group for group in (memory, flash) if group is not None)
    return Limits(
        limiter=limiter,
        memory_kind="none" if limiter is None else "soft" if memory is None else "hard",
        flash_kind="none" if flash is None else "hard",
        memory_group=memory,
        _all=made,
    )


def _limit_flash(settings: PhoneSettings, data: Path, name: str) -> groups.Group | None:
    device = groups.block_device(data)
    if settings.flash_mbps is None or device is None:
        return None
    # Version 2 has one group per process, so both limits would have to share it.
    group = groups.group_1(name, memory=False, flash=True)
    if group is None:
        return None
    try:
        group.limit_flash(device, settings.flash_mbps * 1_000_000)
    except OSError:
        group.remove()
        return None
    return group
