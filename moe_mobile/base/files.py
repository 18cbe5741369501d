# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader sees either nothing or all of them, and reading small ones."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import select
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from moe_mobile.base import limits
from moe_mobile.errors import IoError, UsageError, read_error, write_error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class HashingFile:
    """A binary file being written, with its length and SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self.adopt(data)

    def adopt(self, data: bytes | bytearray | memoryview) -> None:
        """Counts and hashes bytes that are in the file already."""
        self._digest.update(data)
        self.bytes += len(data)

    def pad(self, alignment: int) -> None:
        """Zeros up to the next multiple of ``alignment``."""
        self.write(bytes(-self.bytes % alignment))

    def sha256(self) -> str:
        return self._digest.hexdigest()


def make_folder(folder: Path, path: Path, remedy: str = "Name a file in another folder") -> None:
    """Makes the folder that ``path`` is to lie in, and those above it.

    Raises OSError: an IoError about ``path`` if a file has the name of one of them.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        taken = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
        raise IoError(f"not writable: {taken} is not a folder", file=path, remedy=remedy) from error


def write_file(path: Path, fill: Callable[[HashingFile], None]) -> tuple[int, str]:
    """Writes ``path`` through ``fill``: temporary name, fsync, rename, fsync of the folder.

    Returns:
        Length in bytes and SHA-256.

    Raises:
        DiskFullError, ReadOnlyError, IoError: naming ``path``.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        make_folder(path.parent, path)
        # What has that name, perhaps as a second one, is not written into.
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as raw:
            file = HashingFile(raw)
            fill(file)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(error, path) from error
        raise
    return file.bytes, file.sha256()


def open_input(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a file that a user names, which may be a pipe, as `<(...)` of shells is.

    Raises OSError. Reading raises an IoError once a pipe brings nothing for `limits.PIPE_S`: its
    other end may never be opened.
    """
    file = open(path, "rb", buffering=0, opener=_open_at_once)  # noqa: SIM115
    raw = _Pipe(file) if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode) else file
    return io.BufferedReader(raw)


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting for a pipe's other end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)  # a terminal is waited for
    return descriptor


class _Pipe(io.RawIOBase):
    """Reads a pipe, and waits for its writer no longer than the limit."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.name = file.name
        self._ready = select.poll()
        self._ready.register(file, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        if not self._ready.poll(1000 * limits.PIPE_S):
            raise IoError(
                f"nothing was written to this pipe for {limits.PIPE_S:.0f} s",
                file=self.name,
                remedy="Start what writes to it first, or pipe it to standard input and give -",
            )
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """An OSError in the context is an IoError about ``path``: asking whether something is there
    raises one if its folder cannot be searched, or the name is too long."""
    try:
        yield
    except OSError as error:
        raise read_error(error, path) from error


def read_limited(file: IO[bytes], most: int, name: str, remedy: str) -> bytes:
    """What is left of an open file, which may be a pipe or a device.

    Raises UsageError if that is more than ``most`` bytes, and IoError.
    """
    try:
        data = file.read(most + 1)
    except OSError as error:
        raise read_error(error, name) from error
    if len(data) > most:
        raise UsageError(f"is larger than {most >> 20} MiB", file=name, remedy=remedy)
    return data


def open_regular(
    path: str | os.PathLike[str], remedy: str | None = None, *, links: bool = True
) -> io.BufferedReader:
    """Opens a file for reading.

    ``links``: whether the path may be a link.

    Raises OSError: an IoError for a pipe or device, which could go on for ever.
    """
    # Without waiting for a pipe's other end. O_NONBLOCK changes nothing for regular files.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IoError("is not a regular file", file=path, remedy=remedy or "Check the path")
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(
    path: str | os.PathLike[str], most: int, remedy: str | None = None, *, links: bool = True
) -> bytes:
    """A file's bytes, at most one more than ``most``: a longer one is not what it is taken for.

    Raises IoError, and opens the file as :func:`open_regular`.
    """
    try:
        with open_regular(path, remedy, links=links) as file:
            return file.read(most + 1)
    except OSError as error:
        raise read_error(error, path) from error


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Raises as :func:`open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
