# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The limits of a phone by whichever way this machine allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moe_mobile.errors import UnsupportedError
from moe_mobile.virtual_phone import groups
from moe_mobile.virtual_phone.settings import LIMITERS, PhoneSettings


@dataclass(frozen=True)
class Limits:
    """What holds a phone to its settings.

    Attributes:
        limiter: what limits memory: one of settings.LIMITERS, None without a limit.
        memory_kind: "hard" (the kernel refuses), "soft" (sampled) or "none".
        flash_kind: "hard" or "none".
        memory_group: the group that limits memory, if one does.
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


_Maker = Callable[..., groups.Group | None]

_MAKERS: dict[str, _Maker] = {
    "cgroup2": groups.group_2,
    "cgroup1": groups.group_1,
    "systemd": groups.own_group_2,
}


def make_limits(settings: PhoneSettings, data: Path, name: str, *, scoped: bool) -> Limits:
    """Set up what `settings` ask for.

    Args:
        data: where /data lies.
        name: of the groups to make.
        scoped: whether systemd gave this process a scope of its own.

    Raises:
        UnsupportedError: the limiter that was asked for does not work here.
    """
    device = None if settings.flash_mbps is None else groups.block_device(data)
    limiter: str | None = None
    memory: groups.Group | None = None
    if settings.ram is not None:
        for kind in [settings.limiter] if settings.limiter else LIMITERS:
            if kind == "watchdog":
                limiter = kind
                break
            if kind == "systemd" and not scoped:
                continue
            memory = _memory_group(_MAKERS[kind], name, settings.ram, flash=device is not None)
            if memory is not None:
                limiter = kind
                break
        if limiter is None:
            raise UnsupportedError(
                f"memory cannot be limited by {settings.limiter} on this machine",
                setting="limiter",
                remedy="Let it choose",
            )
    flash = None
    if settings.flash_mbps is not None and device is not None:
        flash = _flash_group(memory, f"{name}-flash", device, settings.flash_mbps * 1_000_000)
    made = {id(group): group for group in (memory, flash) if group is not None}
    return Limits(
        limiter=limiter,
        memory_kind="none" if limiter is None else "soft" if memory is None else "hard",
        flash_kind="none" if flash is None else "hard",
        memory_group=memory,
        _all=tuple(made.values()),
    )


def _memory_group(make: _Maker, name: str, limit: int, *, flash: bool) -> groups.Group | None:
    """A group that limits memory, and can limit flash too if that is wanted and possible."""
    group = make(name, memory=True, flash=True) if flash else None
    group = group or make(name, memory=True, flash=False)
    if group is None:
        return None
    try:
        group.limit_memory(limit)
    except OSError:
        group.remove()
        return None
    return group


def _flash_group(
    memory: groups.Group | None, name: str, device: tuple[int, int], rate: int
) -> groups.Group | None:
    """The group that limits flash, the one for memory or another; None if none can."""
    if memory is not None and memory.has_flash:
        return memory if _limit_flash(memory, device, rate) else None
    # A process is in one group of version 2 only.
    makers = [groups.group_1] if memory is not None else [groups.group_2, groups.group_1]
    for make in makers:
        group = make(name, memory=False, flash=True)
        if group is not None:
            if _limit_flash(group, device, rate):
                return group
            group.remove()
    return None


def _limit_flash(group: groups.Group, device: tuple[int, int], rate: int) -> bool:
    try:
        group.limit_flash(device, rate)
    except OSError:
        return False
    return True
