# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading what shell scripts on a device print, whose every source may be missing or denied."""

from __future__ import annotations

import re

__all__ = ["MARK", "free_bytes", "kibibytes", "sections"]

MARK = "@@@"
"""Begins a line that names the section after it."""

_FREE = re.compile(r"\s(\d+)\s+(\d+)\s+(\d+)\s+\d+%")


def sections(text: str) -> dict[str, str]:
    """The text of each section by its name, a single word."""
    parts = re.split(rf"^{MARK} (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def kibibytes(text: str, name: str) -> int | None:
    """A line `name: 12 kB` of /proc/meminfo or of a process's files, in bytes."""
    match = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def free_bytes(df: str) -> int:
    """What `df -k` says is available on the last file system it lists; 0 where it does not say."""
    # The name of the file system may push the numbers to a line of their own.
    numbers = _FREE.findall(df)
    return int(numbers[-1][2]) * 1024 if numbers else 0
