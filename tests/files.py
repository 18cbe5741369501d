# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Comparing folders, and what may lie in place of a small file."""

from __future__ import annotations

import os
from pathlib import Path

HUGE = 64 << 30


def contents(folder: Path, *, ignore: tuple[str, ...] = ()) -> dict[str, bytes]:
    """All files below a folder by their relative path, except those with an ignored name.

    The packed store inside a bundle is not a part of the bundle, and is left out.
    """
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in ignore
        and ".packed" not in path.relative_to(folder).parts
    }


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)
