# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a user names to be written: a file, a pipe or a device."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import time
from pathlib import Path
from typing import IO

from moe_mobile.base import limits
from moe_mobile.base.files import write_file
from moe_mobile.base.pipes import Writer
from moe_mobile.errors import IoError, write_error

_RETRY_S = 0.05


def write_output(path: str | os.PathLike[str], data: bytes) -> int:
    """Write a file whole or not at all, and a pipe or device as it is: in its place a file would
    take it from all who use it. A link stays, and its target is written.

    A pipe is waited for no longer than `limits.PIPE_S`: its other end may never be opened, or never
    be read. If it is standard output too, its reader may take its time: somebody may be paging.

    Returns its bytes.

    Raises DiskFullError, ReadOnlyError or IoError.
    """
    try:
        kind = 0
        with contextlib.suppress(FileNotFoundError):
            kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind in (0, stat.S_IFREG):
            target = os.path.realpath(path) if os.path.islink(path) else path
            return write_file(Path(target), lambda file: file.write(data))[0]
        if kind == stat.S_IFIFO:
            _write_pipe(path, data)
        else:
            with open(path, "wb") as file:
                file.write(data)
    except OSError as error:
        raise write_error(error, path) from error
    return len(data)


def _write_pipe(path: str | os.PathLike[str], data: bytes) -> None:
    with contextlib.closing(Writer(_opened_pipe(path))) as pipe:
        seconds = None if _is_stdout(path) else limits.PIPE_S
        try:
            for start in range(0, len(data), select.PIPE_BUF):
                pipe.write(data[start : start + select.PIPE_BUF], seconds)
        except TimeoutError:
            raise _not_read(path) from None
        except BrokenPipeError:
            raise IoError(
                "its reader went away before it had everything",
                file=path,
                remedy="Let it read to the end, or name a file",
            ) from None


def _opened_pipe(path: str | os.PathLike[str]) -> IO[bytes]:
    """Once somebody reads it."""
    end = time.monotonic() + limits.PIPE_S
    while True:
        try:
            return open(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), "wb")
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        if time.monotonic() > end:
            raise _not_read(path)
        time.sleep(_RETRY_S)


def _is_stdout(path: str | os.PathLike[str]) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(1))
    return False


def _not_read(path: str | os.PathLike[str]) -> IoError:
    return IoError(
        f"nothing was read from this pipe for {limits.PIPE_S:.0f} s",
        file=path,
        remedy="Start what reads it first, or name a file",
    )
