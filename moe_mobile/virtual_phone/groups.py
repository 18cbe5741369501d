# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Control groups, versions 1 and 2, that hold a phone's processes to its memory and flash."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import time
from pathlib import Path

_MEMORY_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "oom_kill")
_MEMORY_2 = ("memory.max", "memory.current", "memory.events", "oom_kill")


class Group:
    """One or more folders that process 1 of a phone is put into.

    Reads go through descriptors, which stay good once the server left this machine's file system.
    """

    def __init__(self, folders: dict[str, Path], version: int) -> None:
        self._folders = folders
        self._version = version
        self._files = _MEMORY_2 if version == 2 else _MEMORY_1
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._fds = {name: os.open(path, flags) for name, path in folders.items()}
        self.has_flash = not folders.keys().isdisjoint({"io", "blkio"})

    def limit_memory(self, limit: int) -> None:
        """Kill what would use more than `limit` bytes."""
        self._write("memory", self._files[0], str(limit))
        swap = ("memory.swap.max", "0") if self._version == 2 else ("memory.swappiness", "0")
        with contextlib.suppress(OSError):  # a kernel without swap
            self._write("memory", *swap)

    def limit_flash(self, device: tuple[int, int], rate: int) -> None:
        """Read and write the block device with at most `rate` bytes a second."""
        number = f"{device[0]}:{device[1]}"
        if self._version == 2:
            self._write("io", "io.max", f"{number} rbps={rate} wbps={rate}")
        else:
            self._write("blkio", "blkio.throttle.read_bps_device", f"{number} {rate}")
            self._write("blkio", "blkio.throttle.write_bps_device", f"{number} {rate}")

    def adopt(self, pid: int) -> None:
        """Put a process in."""
        for name in self._folders:  # in version 2 all are one folder
            self._write(name, "cgroup.procs", str(pid))

    def used(self) -> int:
        """Bytes in use that cannot be taken back."""
        stat = dict(line.split() for line in self._read("memory", "memory.stat").splitlines())
        prefix = "" if self._version == 2 else "total_"
        cached = int(stat[prefix + "inactive_file"]) + int(stat[prefix + "active_file"])
        return max(0, int(self._read("memory", self._files[1])) - cached)

    def watch(self) -> tuple[int, int]:
        """A descriptor and the event of poll(2) that comes when memory runs out."""
        if self._version == 2:
            return self._open("memory", self._files[2]), select.POLLPRI
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = self._open("memory", self._files[2])
        self._write("memory", "cgroup.event_control", f"{event} {control}")
        os.close(control)
        return event, select.POLLIN

    def kills(self) -> int:
        """Processes the kernel has killed for memory so far."""
        lines = self._read("memory", self._files[2]).splitlines()
        return int(dict(line.split() for line in lines)[self._files[3]])

    def remove(self) -> None:
        """Remove the folders, once their last process is gone."""
        for fd in self._fds.values():
            os.close(fd)
        for path in self._folders.values():
            for attempt in range(50):
                try:
                    path.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # the kernel is still clearing up after its processes
                    time.sleep(0.002 * (attempt + 1))

    def _open(self, controller: str, name: str) -> int:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fds[controller])

    def _read(self, controller: str, name: str) -> str:
        file = self._open(controller, name)
        try:
            return os.read(file, 1 << 16).decode()
        finally:
            os.close(file)

    def _write(self, controller: str, name: str, text: str) -> None:
        file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fds[controller])
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def group_1(name: str, *, memory: bool, flash: bool) -> Group | None:
    """A new group of version 1 next to this process's others; None if there are none."""
    wanted = [*(["memory"] if memory else []), *(["blkio"] if flash else [])]
    folders = {}
    try:
        for controller in wanted:
            mounted = _mount_of(controller)
            if mounted is None:
                raise FileNotFoundError(controller)
            folder = _inside(mounted, _membership(controller)) / name
            folder.mkdir()
            folders[controller] = folder
        return Group(folders, 1)
    except OSError:
        for folder in folders.values():
            folder.rmdir()
        return None


def group_2(name: str, *, memory: bool, flash: bool) -> Group | None:
    """A new group of version 2; None if the controllers are not available here.

    A group that holds processes cannot share controllers out, so as root it is made at the top.
    """
    top = _mount_of(None)
    if top is None:
        return None
    own = _inside(top, _membership(None))
    candidates = [own.parent, top] if own != top else [top]
    wanted = [*(["memory"] if memory else []), *(["io"] if flash else [])]
    for parent in candidates:
        folder = parent / name
        try:
            there = (parent / "cgroup.controllers").read_text().split()
            if not set(wanted) <= set(there):
                continue
            control = parent / "cgroup.subtree_control"
            missing = set(wanted) - set(control.read_text().split())
            if missing:
                control.write_text(" ".join(f"+{name}" for name in sorted(missing)))
            folder.mkdir()
            return Group(dict.fromkeys(wanted, folder), 2)
        except OSError:
            continue
    return None


def own_group_2(name: str, *, memory: bool, flash: bool) -> Group | None:
    """A group below this process's own, which systemd handed over to it; it moves aside first."""
    top = _mount_of(None)
    if top is None:
        return None
    own = _inside(top, _membership(None))
    try:
        (own / "server").mkdir(exist_ok=True)
        (own / "server" / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        return None
    return group_2(name, memory=memory, flash=flash)


def block_device(folder: Path) -> tuple[int, int] | None:
    """Number of the whole disk that a folder lies on; None if there is none (tmpfs, overlay)."""
    device = os.stat(folder).st_dev
    node = Path("/sys/dev/block") / f"{os.major(device)}:{os.minor(device)}"
    if not node.exists():
        return None
    if (node / "partition").exists():
        node = node.resolve().parent
    major, _, minor = (node / "dev").read_text().strip().partition(":")
    return int(major), int(minor)


def has_systemd() -> bool:
    """Whether this user's systemd can be asked for a scope."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return bool(runtime and shutil.which("systemd-run") and Path(runtime, "systemd").is_dir())


def _mount_of(controller: str | None) -> Path | None:
    """Where a controller of version 1, or (None) version 2, is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if controller is None:
            if kind == "cgroup2":
                return Path(place)
        elif kind == "cgroup" and controller in options.split(","):
            return Path(place)
    return None


def _membership(controller: str | None) -> str:
    """Path of the group this process is in; lines are "4:cpu,memory:/path" and "0::/path"."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == (controller or "") or controller in controllers.split(","):
            return path
    return "/"


def _inside(mounted: Path, path: str) -> Path:
    """The folder of a group; in a container the mount may show its own part only."""
    folder = mounted / path.lstrip("/")
    return folder if folder.is_dir() else mounted
