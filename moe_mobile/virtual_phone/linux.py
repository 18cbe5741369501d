# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""System calls that are missing in Python: namespaces, mounts, and privileges of one thread."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

# glibc has no pivot_root, and its setresuid() changes every thread of the process.
_NUMBERS = {
    "x86_64": {
        "pivot_root": 155,
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "capset": 126,
    },
    "aarch64": {
        "pivot_root": 41,
        "setgroups": 159,
        "setresuid": 147,
        "setresgid": 149,
        "capset": 91,
    },
}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _syscall(name: str, *arguments: object) -> int:
    number = _NUMBERS[os.uname().machine][name]
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), name)


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` (CLONE_NEW...) name for new ones."""
    _check(_libc.unshare(flags), "unshare")


def mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """mount(2); an OSError names the target."""
    arguments = (source and os.fsencode(source), os.fsencode(target), kind and kind.encode())
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None), target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _syscall("pivot_root", os.fsencode(new), os.fsencode(old))


def sethostname(name: str) -> None:
    """sethostname(2)."""
    _check(_libc.sethostname(name.encode(), len(name.encode())), "sethostname")


def die_with_parent(signal: int) -> None:
    """Receive `signal` when the thread that started this process ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of this process's grandchildren whose parent ends."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def drop_privileges(uid: int, gid: int) -> None:
    """Make the calling *thread*, and what it starts, `uid` and `gid` without any capability.

    Other threads keep theirs: files a thread touches from here on are judged as that user's.
    """
    # Refused in the user namespace of somebody without privileges, who has nothing to give up.
    with contextlib.suppress(PermissionError):
        _syscall("setgroups", ctypes.c_long(0), None)
    _syscall("setresgid", *(ctypes.c_long(gid),) * 3)
    _syscall("setresuid", *(ctypes.c_long(uid),) * 3)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    _syscall("capset", header, bytes(24))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
