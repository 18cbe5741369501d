# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A file of JSON lines that a long command keeps its rows in, and that a later one continues."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import threading
from typing import IO

from moe_mobile.base import limits
from moe_mobile.base.files import make_folder, read_limited
from moe_mobile.base.json_field import Json
from moe_mobile.base.json_text import json_text
from moe_mobile.base.lock import try_lock
from moe_mobile.errors import UsageError, write_error


class JsonLines:
    """A file of JSON objects, one per line, written by one process at a time.

    Attributes:
        found: its whole lines. A last line that a killed writer left unfinished is overwritten.
        ends_foreign: the unfinished line cannot come from this writer, whose lines begin with
            ``begin``.
    """

    def __init__(self, path: pathlib.Path, begin: bytes = b"{") -> None:
        """Makes the folder if it is missing.

        Raises:
            UsageError: another process writes the file, or it is larger than any that is written
                here.
            IoError: it cannot be opened.
        """
        self._path = path
        self._lock = threading.Lock()
        try:
            self._new = not os.path.lexists(path)  # a link is somebody's, also one to nothing
            if path.exists() and not path.is_file():  # opening it might wait, reading never end
                raise UsageError("is not a regular file", file=path, remedy="Name another one")
            make_folder(path.parent, path)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            self._file = open(descriptor, "r+b")  # noqa: SIM115
        except OSError as error:
            raise write_error(error, path) from error
        try:
            data = _locked_content(self._file, path)
        except BaseException:
            self._file.close()
            raise
        self._whole = data.rfind(b"\n") + 1
        self.found = data[: self._whole].splitlines()
        torn = data[self._whole :]
        self.ends_foreign = torn[: len(begin)] != begin[: len(torn)]

    def append(self, item: Json, *, sync: bool = True) -> None:
        """Write a line through to the disk, or just to the system: then it outlives this process,
        and the next line that is synced takes it along. Raises DiskFullError or IoError."""
        line = json_text(item, compact=True).encode() + b"\n"
        with self._lock:
            try:
                self._file.truncate(self._whole)
                self._file.seek(self._whole)
                self._file.write(line)
                self._file.flush()
                if sync:
                    os.fsync(self._file.fileno())
            except OSError as error:
                raise write_error(error, self._path) from error
            self._whole += len(line)

    def close(self) -> None:
        """Let go of the file, and delete it if it was made here and nothing was written."""
        whatever = contextlib.suppress(OSError, ValueError)  # it may be closed already
        with self._lock, contextlib.closing(self._file), whatever:
            if self._new and not os.fstat(self._file.fileno()).st_size:
                self._path.unlink()


def _locked_content(file: IO[bytes], path: pathlib.Path) -> bytes:
    """All of a file that no other process writes. Raises as opening a JsonLines."""
    # Without a name it was deleted between our open and our lock.
    if not try_lock(file, path) or not os.fstat(file.fileno()).st_nlink:
        raise UsageError("another command is writing there", file=path, remedy="Wait for it to end")
    return _content(file, path)


def _content(file: IO[bytes], path: pathlib.Path) -> bytes:
    """All of a file. Raises UsageError if it is too large, or has more lines than fit in memory."""
    remedy = "Name another file, or move this one away"
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise UsageError("is not a regular file", file=path, remedy="Name another one")
    most = limits.LINES_BYTES
    if status.st_size > most:  # before so much is read
        raise UsageError(f"is larger than {most >> 20} MiB", file=path, remedy=remedy)
    data = read_limited(file, most, str(path), remedy)
    if data.count(b"\n") + data.count(b"\r") > limits.VALUES:
        raise UsageError(f"has more than {limits.VALUES} lines", file=path, remedy=remedy)
    return data


def refuse_content(path: pathlib.Path) -> None:
    """Raises UsageError for a file that is not empty."""
    with contextlib.suppress(OSError):
        if path.stat().st_size:
            raise UsageError(
                "holds results already",
                file=path,
                remedy="Set `resume` to continue them, or name another file",
            )
