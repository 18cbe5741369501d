# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder of an export in progress: locked, journaled, and renamed when complete.

``OUT.partial`` lies beside ``OUT``. Every finished file is recorded in its journal, whose first
line is a key made of all inputs: a later run with the same inputs continues after the recorded
files, a run with other inputs starts anew. The lock is on the folder itself, so that a killed
process leaves none behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moe_mobile.bundle.files import HashingFile, sync_folder, write_file
from moe_mobile.bundle.manifest import MANIFEST_FILE
from moe_mobile.errors import UsageError, write_error

JOURNAL = "export-journal.jsonl"
Record = dict[str, Any]


class Workspace:
    """Use :func:`open_workspace`."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self._key = key
        self._journal = folder / JOURNAL
        self._records = self._read_journal()
        if self._records is None:
            self._start_anew()

    @property
    def resumed(self) -> int:
        """Number of files that an earlier run finished."""
        return len(self._records or {})

    def finished(self, path: str) -> Record | None:
        """What :meth:`write` recorded for ``path``, if it is done."""
        return (self._records or {}).get(path)

    def write(self, path: str, fill: Callable[[HashingFile], Record | None]) -> Record:
        """Writes a file and records it; ``fill`` may add members to the record.

        Returns:
            The record: ``path``, ``bytes``, ``sha256`` and ``fill``'s members.
        """
        extra: Record = {}

        def wrapped(file: HashingFile) -> None:
            extra.update(fill(file) or {})

        size, digest = write_file(self.folder / path, wrapped)
        record = {"path": path, "bytes": size, "sha256": digest, **extra}
        self._append(record)
        assert self._records is not None
        self._records[path] = record
        return record

    def complete(self, out: Path, manifest: bytes) -> None:
        """Writes the manifest and gives the folder its final name, replacing an older bundle."""
        write_file(self.folder / MANIFEST_FILE, lambda file: file.write(manifest))
        replaced = out.with_name(out.name + ".replaced")
        try:
            _remove_bundle(replaced)
            if out.exists():
                os.rename(out, replaced)
            os.rename(self.folder, out)
            # Last, so that a kill at any moment leaves either a journal or a finished bundle.
            (out / JOURNAL).unlink()
            sync_folder(out)
            sync_folder(out.parent)
            _remove_bundle(replaced)
        except OSError as error:
            raise write_error(error, out) from error

    def _append(self, record: Record) -> None:
        try:
            with open(self._journal, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(error, self._journal) from error

    def _read_journal(self) -> dict[str, Record] | None:
        """The records of a run with the same inputs; None where there is none."""
        lines = _journal_of(self.folder, self._key)
        if lines is None:
            return None
        records: dict[str, Record] = {}
        for line in lines:
            # A kill may have cut the last line; what it would have recorded is done again.
            with contextlib.suppress(ValueError, KeyError, OSError):
                record = json.loads(line)
                if (self.folder / record["path"]).stat().st_size == record["bytes"]:
                    records[record["path"]] = record
        return records

    def _start_anew(self) -> None:
        try:
            for entry in self.folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            sync_folder(self.folder)
        except OSError as error:
            raise write_error(error, self.folder) from error
        self._records = {}
        self._append({"key": self._key})


@contextlib.contextmanager
def open_workspace(out: Path, key: str, *, overwrite: bool) -> Iterator[Workspace]:
    """The locked ``OUT.partial``.

    Raises:
        UsageError: ``out`` exists, is no bundle, or is being written by another process.
        DiskFullError, ReadOnlyError, IoError.
    """
    check_target(out, overwrite=overwrite)
    partial = out.with_name(out.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        if not (partial / JOURNAL).exists() and any(partial.iterdir()):
            raise UsageError(
                "exists and is no unfinished export", file=partial, remedy="Move it away"
            )
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise write_error(error, partial) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                "another export is writing here", file=partial, remedy="Wait for it to end"
            ) from None
        if not _same_folder(descriptor, partial):
            # The other process finished between our open and our lock.
            raise UsageError("another export has just been written here", file=out)
        yield Workspace(partial, key)
    finally:
        os.close(descriptor)


def finish_interrupted(out: Path, key: str) -> bool:
    """Completes an export that was killed between its last two steps; True where ``out`` is one."""
    if _journal_of(out, key) is None:
        return False
    try:
        (out / JOURNAL).unlink()
        sync_folder(out)
    except OSError as error:
        raise write_error(error, out) from error
    return True


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuses a target that exists, unless it is a bundle (or empty) to be overwritten."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UsageError("already exists", file=out, remedy="Choose another name, or overwrite it")
    if out.is_symlink() or not out.is_dir():
        raise UsageError("is no folder and is not overwritten", file=out)
    if any(out.iterdir()) and not (out / MANIFEST_FILE).is_file():
        raise UsageError(
            "holds other files than a bundle and is not overwritten", file=out, remedy="Move it"
        )


def _same_folder(descriptor: int, path: Path) -> bool:
    ours = os.fstat(descriptor)
    try:
        current = os.stat(path)
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (current.st_dev, current.st_ino)


def _journal_of(folder: Path, key: str) -> list[str] | None:
    """The lines after the first of the folder's journal, if it was begun with this key."""
    try:
        lines = (folder / JOURNAL).read_text("utf-8").splitlines(keepends=True)
        return lines[1:] if lines and json.loads(lines[0]) == {"key": key} else None
    except (OSError, ValueError):
        return None


def _remove_bundle(folder: Path) -> None:
    if not folder.exists():
        return
    if not (folder / MANIFEST_FILE).is_file():
        raise UsageError("is in the way and no bundle", file=folder, remedy="Move it away")
    shutil.rmtree(folder)
