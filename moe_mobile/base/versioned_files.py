# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the lab's files have in common: how they are written and read, and their version."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from moe_mobile.base.files import write_file
from moe_mobile.base.json_field import MAX_INTEGER, JsonField
from moe_mobile.errors import IoError, UnsupportedError, UsageError, read_error, write_error

__all__ = ["check_version", "read_regular", "write_regular"]


def write_regular(path: str | os.PathLike[str], data: bytes) -> int:
    """Write a file whole or not at all; a link stays, and its target is written.

    Returns its bytes.

    Raises:
        UsageError: there is something that is no regular file.
        DiskFullError, ReadOnlyError, IoError: writing failed.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise UsageError("is no regular file", file=path, remedy="Name another one")
    except OSError as error:
        raise write_error(error, path) from error
    return write_file(target, lambda file: file.write(data))[0]


def read_regular(file: str, most: int, remedy: str) -> bytes:
    """A file's bytes, one more than ``most`` at most. Raises IoError, also for a pipe or device."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise IoError("is no regular file", file=file, remedy=remedy)
        with open(file, "rb") as opened:
            return opened.read(most + 1)
    except OSError as error:
        raise read_error(error, file) from error


def check_version(
    root: JsonField, member: str, known: int, file: str, *, missing: str, has: str, remedy: str
) -> None:
    """Asked before the other members: a newer version may have other ones.

    ``missing`` says what the file is without the member, ``has`` begins as in "the trace has".
    Raises the field's error for what is no version, and UnsupportedError for another one.
    """
    root.expect_object()
    if not root.has(member):
        root.fail(missing)
    version = root[member].integer(0, MAX_INTEGER)
    if version != known:
        raise UnsupportedError(
            f"{has} version {version}, this build knows {known}", file=file, remedy=remedy
        )
