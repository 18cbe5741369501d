# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a phone's processes use, which one is killed for it, and the /proc/meminfo of it."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass

from moe_mobile.virtual_phone.groups import Group
from moe_mobile.virtual_phone.init import KILL_FIRST
from moe_mobile.virtual_phone.processes import Processes

_WORTH_WRITING = 64 << 10
# Seconds to wait for a process that the kernel says it killed to disappear.
_PATIENCE = 1.0


@dataclass(frozen=True)
class ProcessMemory:
    """One process: its id in the phone, name, bytes that are its own, and of files it maps."""

    pid: int
    name: str
    own: int
    files: int


def meminfo(limit: int, available: int) -> str:
    """Text of /proc/meminfo for a phone of `limit` bytes."""
    values = {
        "MemTotal": limit,
        "MemFree": available,
        "MemAvailable": available,
        "Buffers": 0,
        "Cached": 0,
        "SwapCached": 0,
        "SwapTotal": 0,
        "SwapFree": 0,
    }
    return "".join(f"{name + ':':<15} {value // 1024:>8} kB\n" for name, value in values.items())


class Memory:
    """Watches one phone; the server calls `sample` often while anything runs.

    Args:
        limit: bytes, None for a phone without a limit.
        group: the control group that enforces it, None to enforce it here.
        root_fd: the phone's root folder, through which it can be written.
    """

    def __init__(
        self, limit: int | None, group: Group | None, processes: Processes, root_fd: int
    ) -> None:
        self._limit = limit
        self._group = group
        self._processes = processes
        self._root_fd = root_fd
        self._seen: dict[int, ProcessMemory] = {}
        self._kills = group.kills() if group is not None else 0
        self._available = -1
        self._gone: list[ProcessMemory] = []
        self._patient_until: float | None = None
        self._shot: set[int] = set()

    def alarm(self) -> tuple[int, int] | None:
        """A descriptor and the event of poll(2) upon which `sample` is due; read it then."""
        return None if self._group is None else self._group.watch()

    def sample(self) -> bool:
        """Look once: keep the limit, log kills, update meminfo. Whether any process runs."""
        now = _processes()
        if self._limit is not None:
            self._log_kernel_kills(now)
            self._update(self._limit, now)
        self._seen = now
        self._shot &= set(now)
        return bool(now)

    def kill(self, name: str) -> bool:
        """Kill the largest process of that name as the low-memory killer does; False if none."""
        named = [process for process in _processes().values() if process.name == name[:15]]
        if not named:
            return False
        victim = max(named, key=lambda process: process.own)
        self._shoot(victim, "device is low on memory")
        return True

    def _update(self, limit: int, now: dict[int, ProcessMemory]) -> None:
        if self._group is not None:
            used = self._group.used()
        else:
            used = sum(process.own for process in now.values())
            alive = [process for process in now.values() if process.pid not in self._shot]
            if used > limit and alive and not self._shot:
                victim = max(alive, key=lambda process: process.own)
                self._shoot(victim, "memory limit of the phone (watchdog)")
        available = max(0, limit - used)
        if abs(available - self._available) >= _WORTH_WRITING:
            self._available = available
            self._write("virtual/meminfo", meminfo(limit, available).encode())

    def _log_kernel_kills(self, now: dict[int, ProcessMemory]) -> None:
        if self._group is None:
            return
        kills = self._group.kills()
        if kills == self._kills:
            return
        self._gone += [process for pid, process in self._seen.items() if pid not in now]
        self._gone.sort(key=lambda process: process.own, reverse=True)
        largest = max((process.own for process in now.values()), default=0)
        if not self._gone or self._gone[0].own < largest:
            # The kernel kills the largest: it is still being taken apart, and who left meanwhile
            # left by itself. Or it lived for less than our interval.
            if self._patient_until is None:
                self._patient_until = time.monotonic() + _PATIENCE
            if time.monotonic() < self._patient_until:
                return
        victims = self._gone[: kills - self._kills] or [ProcessMemory(0, "unknown", 0, 0)]
        for process in victims:
            self._log(process, "memory limit of the phone (control group)")
        self._kills += len(victims)
        self._gone = []
        self._patient_until = None

    def _shoot(self, victim: ProcessMemory, reason: str) -> None:
        self._shot.add(victim.pid)
        self._processes.signal(victim.pid, signal.SIGKILL)
        self._log(victim, reason)

    def _log(self, process: ProcessMemory, reason: str) -> None:
        rss = (process.own + process.files) // 1024
        self.log(
            "lowmemorykiller",
            f"Kill '{process.name}' ({process.pid}), uid 2000, oom_score_adj {KILL_FIRST} to free "
            f"{rss}kB rss, 0kB swap; reason: {reason}",
        )

    def log_end(self) -> None:
        """Say why process 1 ended, if that was for lack of memory."""
        if self._group is not None and self._group.kills() != self._kills:
            self.log(
                "lowmemorykiller",
                "Kill 'init' (1): the phone restarts; reason: memory limit of the phone (control "
                "group)",
            )

    def log(self, tag: str, text: str) -> None:
        """Append a line to what logcat shows."""
        now = time.time()
        stamp = time.strftime("%m-%d %H:%M:%S", time.localtime(now))
        line = f"{stamp}.{int(now * 1000) % 1000:03}     1     1 I {tag}: {text}\n"
        file = os.open(
            "virtual/log", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, dir_fd=self._root_fd
        )
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def clear_log(self) -> None:
        """Forget what logcat shows."""
        flags = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC
        os.close(os.open("virtual/log", flags, dir_fd=self._root_fd))

    def _write(self, name: str, data: bytes) -> None:
        # Always of the same length, so that a reader never sees half of an old text behind a new.
        file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._root_fd)
        try:
            os.pwrite(file, data, 0)
        finally:
            os.close(file)


def _processes() -> dict[int, ProcessMemory]:
    """All but process 1."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and entry != "1":
            try:
                with open(f"/proc/{entry}/status", "rb", buffering=0) as file:
                    lines = file.read(1 << 13).decode(errors="replace").splitlines()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise  # it is not gone
                continue
            fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            # Dying processes lose their memory long before they are reaped: what they had is what
            # was seen last.
            if fields.get("State", "Z")[0] in "ZX" or "RssAnon" not in fields:
                continue
            own = _kibibytes(fields, "RssAnon") + _kibibytes(fields, "RssShmem")
            pid = int(entry)
            found[pid] = ProcessMemory(pid, fields["Name"], own, _kibibytes(fields, "RssFile"))
    return found


def _kibibytes(fields: dict[str, str], name: str) -> int:
    """A field of /proc/PID/status, in bytes."""
    return int(fields.get(name, "0").split()[0]) * 1024
