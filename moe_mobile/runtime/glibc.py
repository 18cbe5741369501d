# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Copies of glibc's files without the system calls that Android kills apps for.

Android gives apps a list of system calls. A process that makes another one is killed. glibc makes
four calls for the engine that are not on the list of Android 10: ``set_robust_list`` and ``rseq``
when a program or a thread starts, ``clone3`` to start a thread (allowed since Android 15), and
``faccessat2`` in ``realpath``. Rust's library asks it for a fifth, ``statx`` (allowed since Android
11). Both can do without each of them, for kernels that do not know it and answer ENOSYS. So in a
copy the instruction that makes the call is replaced by one that gives this answer. glibc makes
other calls that are not on the list, but only in functions that neither the engine nor its
libraries use.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moe_mobile.base import limits
from moe_mobile.base.files import read_regular
from moe_mobile.errors import UnsupportedError
from moe_mobile.runtime.elf import Elf, read_elf

LOADERS = ("ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2")
LIBC = "libc.so.6"

_NUMBERS = {
    "aarch64": {
        "set_robust_list": 99, "rseq": 293, "clone3": 435, "faccessat2": 439, "statx": 291,
    },
    "x86_64": {
        "set_robust_list": 273, "rseq": 334, "clone3": 435, "faccessat2": 439, "statx": 332,
    },
}  # fmt: skip

# In how many places each call is made. Debian's builds of these releases were looked at; another
# one may make calls in ways that are not found here.
_OF_LOADER = {"set_robust_list": 1, "rseq": 1, "clone3": 0, "faccessat2": 0, "statx": 0}
_OF_LIBC = {"set_robust_list": 2, "rseq": 1, "clone3": 1, "faccessat2": 1, "statx": 1}
_PLACES = {
    ("2.36", "aarch64"): (_OF_LOADER, _OF_LIBC | {"clone3": 0}),  # it came later on arm64
    ("2.36", "x86_64"): (_OF_LOADER, _OF_LIBC),
    ("2.41", "aarch64"): (_OF_LOADER, _OF_LIBC),
    ("2.41", "x86_64"): (_OF_LOADER, _OF_LIBC),
}
_CHECKED = "2.36 and 2.41 (Debian 12 and 13)"

# "GNU C Library (Debian GLIBC 2.36-8) stable release version 2.36."
_BANNER = re.compile(rb"\(([ -'*-~]{1,80})\) stable release version (\d+\.\d+)")

_REMEDY = (
    "Build it on Debian 12 or 13, or take a runner that was built with an Android NDK; "
    "docs/phone-runtime.md says how"
)


@dataclass(frozen=True)
class Change:
    """One system call that is not made any more.

    Args:
        call: its name.
        offset: where in the file the call was.
        edits: the bytes that were written, by where.
    """

    call: str
    offset: int
    edits: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Rewritten:
    """A file of glibc without the calls.

    Args:
        content: the whole file.
        origin: the build of glibc that it is of, such as ``Debian GLIBC 2.36-8``.
        changes: all that differs from that build's file.
    """

    content: bytes
    origin: str
    changes: tuple[Change, ...]


def without_refused_calls(path: Path) -> Rewritten:
    """A copy of glibc's loader or ``libc.so.6`` that makes none of the calls above.

    Raises UnsupportedError if it is another file or of a glibc that was not checked, or if it does
    not make each call in exactly as many places as that glibc does; IoError if it cannot be read.
    """
    elf = read_elf(path)
    content = read_regular(path, limits.PROGRAM_BYTES)
    numbers = _NUMBERS.get(elf.machine)
    if numbers is None or elf.soname not in (*LOADERS, LIBC):
        raise UnsupportedError(
            f"is {elf.soname or 'a program'} for {elf.machine}, and only glibc's loader and "
            f"{LIBC} for aarch64 and x86_64 are rewritten for apps",
            file=path,
        )
    banner = _BANNER.search(content)
    origin = banner[1].decode() if banner else "an unknown C library"
    places = _PLACES.get((banner[2].decode() if banner else "", elf.machine))
    if places is None:
        raise UnsupportedError(
            f"is of {origin}, and the system calls that Android refuses to apps were looked up in "
            f"glibc {_CHECKED} only",
            file=path,
            remedy=_REMEDY,
        )
    expected = places[elf.soname == LIBC]
    changes: list[Change] = []
    for call, number in numbers.items():
        found = list(_changes(content, elf, call, number))
        if len(found) != expected[call]:
            at = ", ".join(hex(change.offset) for change in found)
            raise UnsupportedError(
                f"calls {call} in {len(found)} places{at and f' ({at})'}, and {origin} is known to "
                f"do so in {expected[call]}: it is not the file that was looked at",
                file=path,
                remedy=_REMEDY,
            )
        changes += found
    edited = bytearray(content)
    for change in changes:
        for offset, new in change.edits:
            edited[offset : offset + len(new)] = new
    return Rewritten(bytes(edited), origin, tuple(changes))


def _changes(content: bytes, elf: Elf, call: str, number: int) -> Iterator[Change]:
    changes = _changes_aarch64 if elf.machine == "aarch64" else _changes_x86_64
    for code in elf.code:
        yield from changes(content, code, call, number)


def _found(content: bytes, pattern: bytes, code: range) -> Iterator[int]:
    at = content.find(pattern, code.start, code.stop)
    while at >= 0:
        yield at
        at = content.find(pattern, at + 1, code.stop)


# Instructions between the one that loads a call's number and the call: 6 were seen.
_BETWEEN = 12

_SVC = (0xD4000001).to_bytes(4, "little")  # svc #0
_NO_SUCH_CALL = (0x92800000 | (errno.ENOSYS - 1) << 5).to_bytes(4, "little")  # mov x0, #-ENOSYS


def _changes_aarch64(content: bytes, code: range, call: str, number: int) -> Iterator[Change]:
    """A call is `mov x8, #NUMBER`, a few instructions that do not jump, `svc #0`."""
    for move in (0xD2800008, 0x52800008):  # to x8 and to w8
        for at in _found(content, (move | number << 5).to_bytes(4, "little"), code):
            if at % 4:
                continue
            for offset in range(at + 4, min(at + 4 * (_BETWEEN + 2), code.stop - 3), 4):
                instruction = content[offset : offset + 4]
                if instruction == _SVC:
                    yield Change(call, offset, ((offset, _NO_SUCH_CALL),))
                    break
                # Branches and exceptions have 101 in bits 26 to 28, and so have system registers,
                # which do no harm: they alone begin with 0xd5.
                if instruction[3] & 0x1C == 0x14 and instruction[3] != 0xD5:
                    break


_SYSCALL = b"\x0f\x05"
_SIGN_EXTEND = b"\x48\x98"  # cltq: %eax to %rax
_MOVE_TO_EAX = b"\xb8"
_BYTES_BETWEEN = 40  # 16 were seen


def _changes_x86_64(content: bytes, code: range, call: str, number: int) -> Iterator[Change]:
    """A call is `mov $NUMBER,%eax`, a few instructions, `syscall`.

    `syscall` has no room for an error number, so the number of the call becomes it, and `syscall`
    makes 64 bits of it. Where an instruction begins cannot be seen here: counting has to do.
    """
    for at in _found(content, _MOVE_TO_EAX + number.to_bytes(4, "little"), code):
        after = at + 5
        offset = content.find(_SYSCALL, after, min(after + _BYTES_BETWEEN, code.stop))
        if offset >= 0:
            error = _MOVE_TO_EAX + (-errno.ENOSYS).to_bytes(4, "little", signed=True)
            yield Change(call, offset, ((at, error), (offset, _SIGN_EXTEND)))
