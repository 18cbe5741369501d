# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading what shell scripts on a device print: every source may be missing, denied or hostile.

Patterns for numbers are bounded, so that whatever a device prints becomes an int or a float. None
reads on across lines or tries one stretch of text again and again: a flood takes as long as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from moe_mobile.base.terminal import without_controls

MARK = "@@@"
"""Begins a line that names the section after it."""

MOST_CPUS = 4096
"""Cores are numbered from 0 to below this."""

_NUMBER = re.compile(r"-?[0-9]{1,15}")
_FREE = re.compile(r"\s([0-9]{1,15})\s{1,99}([0-9]{1,15})\s{1,99}([0-9]{1,15})\s{1,99}[0-9]{1,15}%")


def decoded(data: bytes | bytearray) -> str:
    """What a device printed, without what would act on a terminal that shows it."""
    return without_controls(data.decode(errors="replace").replace("\r\n", "\n"))


def number(text: str) -> int | None:
    """A whole number with nothing around it."""
    return int(text) if _NUMBER.fullmatch(text) else None


def sections(text: str) -> dict[str, str]:
    """The text of each section by its name, a single word."""
    parts = re.split(rf"^{MARK} (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def kibibytes(text: str, name: str) -> int | None:
    """A line `name: 12 kB` of /proc/meminfo or of a process's files, in bytes."""
    match = re.search(rf"^{name}:[ \t]*([0-9]{{1,15}}) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def free_bytes(df: str) -> int | None:
    """What `df -k` says is available on the last file system it lists; None if it does not say."""
    # The name of the file system may push the numbers to a line of their own.
    numbers = _FREE.findall(df)
    return int(numbers[-1][2]) * 1024 if numbers else None


def cpu_list(text: str) -> set[int]:
    """The kernel's lists: `0-3,6`. It names a core once; of a longer list the rest is ignored."""
    cpus: set[int] = set()
    left = MOST_CPUS
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        low, high = number(first), number(last or first)
        if low is None or high is None:
            continue
        named = range(low, min(high + 1, MOST_CPUS, low + left))
        cpus.update(named)
        left -= len(named)
        if left == 0:
            break
    return cpus


def mask(cpus: Iterable[int]) -> str:
    """Cores as `taskset` wants them: a bit each, in hexadecimal."""
    return f"{sum(1 << cpu for cpu in set(cpus)):x}"
