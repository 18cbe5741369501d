# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A shard that grows by an expert at a time, and that a later run continues."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from moe_mobile.base.files import HashingFile, sync_folder
from moe_mobile.base.json_field import Json
from moe_mobile.bundle.manifest import ALIGNMENT
from moe_mobile.errors import write_error

_PART_BYTES = 1 << 20


class GrowingShard:
    """A shard under its temporary name, as a context manager. The file stays if it is left early.

    Args:
        path: the shard's final name.
        known: what an earlier run recorded of its programs, in their order: ``offset``, ``bytes``
            and ``sha256``. Those that the file holds intact are kept; the rest is cut off.

    Attributes:
        programs: what is in the file, in the same form.
        unsynced: bytes that may not have reached the disk.

    All its methods raise DiskFullError, ReadOnlyError and IoError, naming ``path``.
    """

    def __init__(self, path: Path, known: Sequence[Json]) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self.programs: list[Json] = []
        self.unsynced = 0
        with self._typed_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._raw: BinaryIO = _open_own(self._temporary)
            self._file = HashingFile(self._raw)
            for program in known:
                if not self._adopt(program):
                    break
            self._raw.seek(self._file.bytes)
            self._raw.truncate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._typed_errors():
            self._raw.close()

    def append(self, pieces: Sequence[memoryview]) -> Json:
        """Adds a program, and hands it to the system: killing this process does not lose it.

        Returns:
            Its ``offset``, ``bytes`` and ``sha256``.
        """
        with self._typed_errors():
            before = self._file.bytes
            self._file.pad(ALIGNMENT)
            offset, digest = self._file.bytes, hashlib.sha256()
            for piece in pieces:
                self._file.write(piece)
                digest.update(piece)
            self._raw.flush()
            self.unsynced += self._file.bytes - before
        size = self._file.bytes - offset
        self.programs.append({"offset": offset, "bytes": size, "sha256": digest.hexdigest()})
        return self.programs[-1]

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        with self._typed_errors():
            os.fsync(self._raw.fileno())
        self.unsynced = 0

    def finish(self) -> tuple[int, str]:
        """Pads the shard, waits until it is on the disk and gives it its final name.

        Returns:
            Its length and SHA-256.
        """
        with self._typed_errors():
            self._file.pad(ALIGNMENT)
            self._raw.flush()
            os.fsync(self._raw.fileno())
            os.replace(self._temporary, self._path)
            sync_folder(self._path.parent)
        return self._file.bytes, self._file.sha256()

    def _adopt(self, program: Json) -> bool:
        """Counts the next program as written, if its bytes are there."""
        padding = self._raw.read(-self._file.bytes % ALIGNMENT)
        if any(padding) or self._file.bytes + len(padding) != program["offset"]:
            return False
        digest = hashlib.sha256()
        for part in self._parts(program["bytes"]):
            digest.update(part)
        if digest.hexdigest() != program["sha256"]:
            return False
        self._file.adopt(padding)
        self._raw.seek(program["offset"])
        for part in self._parts(program["bytes"]):
            self._file.adopt(part)
        self.programs.append(program)
        return True

    def _parts(self, left: int) -> Iterator[bytes]:
        """The next bytes of the file, fewer if it ends before."""
        while left > 0 and (part := self._raw.read(min(left, _PART_BYTES))):
            yield part
            left -= len(part)

    @contextlib.contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(error, self._path) from error


def _open_own(path: Path) -> BinaryIO:
    """Opens or makes a file. A link, or a file with a second name, would be another's: it loses
    this name."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            path.unlink()
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return open(os.open(path, flags, 0o666), "r+b")
