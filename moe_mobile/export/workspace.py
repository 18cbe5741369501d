# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder of an export in progress: locked, journaled, and renamed when complete.

``OUT.partial``, next to ``OUT``, has::

    bundle/                what is finished, and the shard that grows; becomes OUT
    export-journal.jsonl   the inputs, then a line for each finished file and each expert
    replaced/              the older bundle, between the two renames that replace it

A later run with the same inputs continues after the recorded files, and inside a shard after the
experts whose bytes match their record. A run with other inputs deletes what was made only if it may
overwrite. The lock is on the folder itself, so that a killed process leaves none behind. Every step
leaves a state from which the next run continues, whenever the process is killed.

Each record has a checksum of the weights that its file or expert was made of, its ``source``. Lines
with ``written`` stand between the records: what :attr:`Inputs.written` was from then on. Records
from under another one are in doubt until their source has been compared with the weights. A line
with ``forgotten`` names a file whose records before it do not count: its weights have changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from moe_mobile.base.disk import require_space
from moe_mobile.base.files import HashingFile, make_folder, sync_folder, write_file
from moe_mobile.base.json_field import Json, parse_object
from moe_mobile.base.json_lines import JsonLines
from moe_mobile.base.lock import try_lock
from moe_mobile.base.text import size
from moe_mobile.bundle.manifest import MANIFEST_FILE
from moe_mobile.bundle.unfinished import JOURNAL, PARTIAL, is_journal, made_for, read_journal
from moe_mobile.errors import DiskFullError, UsageError, write_error
from moe_mobile.export.inputs import Inputs
from moe_mobile.export.shard_file import GrowingShard
from moe_mobile.model.source import Download

_BUNDLE = "bundle"
_REPLACED = "replaced"
Record = Json
# A shard is made durable so often: what a power cut takes.
_SYNC_BYTES = 256 << 20
_SYNC_SECONDS = 10.0


class Workspace:
    """Use :func:`open_workspace`."""

    def __init__(self, partial: Path, inputs: Inputs, *, anew: bool) -> None:
        self._partial = partial
        self._bundle = partial / _BUNDLE
        self._records: dict[str, Record] = {}
        self._programs: dict[str, list[Record]] = {}  # of unfinished shards
        self._in_doubt: set[str] = set()
        if anew:
            self._start_anew()
        self._journal = JsonLines(partial / JOURNAL)
        if anew:
            self._journal.append(inputs.line())
        if self._read_records(inputs.written) != inputs.written:
            self._journal.append({"written": inputs.written})

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def finished(self, path: str) -> Record | None:
        """What :meth:`write` recorded for ``path``, if it is done."""
        return self._records.get(path)

    def write(self, path: str, fill: Callable[[HashingFile], Record | None]) -> Record:
        """Writes a file and records it; ``fill`` may add members to the record.

        Returns:
            The record: ``path``, ``bytes``, ``sha256`` and ``fill``'s members.
        """
        extra: Record = {}

        def wrapped(file: HashingFile) -> None:
            extra.update(fill(file) or {})

        length, digest = write_file(self._bundle / path, wrapped)
        record = {"path": path, "bytes": length, "sha256": digest, **extra}
        self._journal.append(record)
        self._records[path] = record
        return record

    def in_doubt(self) -> dict[str, list[object]]:
        """The sources of what was made when files of the weights were not those of today: that of a
        file, or those of a shard's experts, in their order."""
        found = {}
        for path in sorted(self._in_doubt):
            record = self._records.get(path, {"programs": self._programs.get(path, ())})
            parts = record.get("programs", [record])
            found[path] = [part.get("source") for part in parts]
        return found

    def forget(self, path: str) -> None:
        """Has a file made anew, by later runs too."""
        self._journal.append({"forgotten": path})
        self._drop(path)

    def unfinished(self, path: str) -> int:
        """How many experts an earlier run seems to have left in the unfinished shard ``path``."""
        return len(self._programs.get(path, ()))

    def write_shard(
        self,
        path: str,
        make: Callable[[int], Generator[tuple[Sequence[memoryview], int], None, None]],
    ) -> Record:
        """Writes a shard and records it, continuing the one that an earlier run began.

        Args:
            path: the shard's.
            make: called with the number of experts that are there already, gives the programs of
                all others, in pieces, in their order, each with its source.

        Returns:
            The record: ``path``, ``bytes``, ``sha256``, and ``programs``, each with ``offset``,
            ``bytes``, ``sha256`` and ``source``.
        """
        with GrowingShard(self._bundle / path, self._programs.get(path, ())) as shard:
            synced = time.monotonic()
            with contextlib.closing(make(len(shard.programs))) as programs:
                for pieces, source in programs:
                    program = shard.append(pieces)
                    program["source"] = source
                    now = time.monotonic()
                    due = shard.unsynced >= _SYNC_BYTES or now - synced >= _SYNC_SECONDS
                    if due:
                        shard.sync()
                        synced = now
                    self._journal.append({"unfinished": path, **program}, sync=due)
            length, digest = shard.finish()
        record = {"path": path, "bytes": length, "sha256": digest, "programs": shard.programs}
        self._journal.append(record)
        self._records[path] = record
        return record

    def complete(self, out: Path, manifest: bytes) -> None:
        """Writes the manifest and gives the bundle its final name, replacing an older one."""
        write_file(self._bundle / MANIFEST_FILE, lambda file: file.write(manifest))
        try:
            if out.exists():
                os.rename(out, self._partial / _REPLACED)
            os.rename(self._bundle, out)
            sync_folder(out.parent)
            _remove(self._partial)
            sync_folder(out.parent)
        except OSError as error:
            raise write_error(error, out) from error

    def _read_records(self, written: str) -> object:
        """The files that runs with the same inputs finished. Damaged ones are made again. Returns
        the ``written`` of the last run."""
        current: object = ""
        for line in self._journal.found:
            record = parse_object(line) or {}
            current = record.get("written", current)
            with contextlib.suppress(KeyError, TypeError, OSError):
                if "forgotten" in record:
                    self._drop(record["forgotten"])
                    continue
                if "unfinished" in record:
                    path = self._read_program(record)
                elif (self._bundle / record["path"]).stat().st_size == record["bytes"]:
                    path = record["path"]
                    self._records[path] = record
                else:
                    continue
                if current != written:
                    self._in_doubt.add(path)
        return current

    def _drop(self, path: str) -> None:
        self._records.pop(path, None)
        self._programs.pop(path, None)
        self._in_doubt.discard(path)

    def _read_program(self, record: Record) -> str:
        """An expert of an unfinished shard. It replaces those that lay there or behind: they were
        found damaged, and the shard was cut off before them."""
        path: str = record["unfinished"]
        programs = self._programs.setdefault(path, [])
        program = {name: record[name] for name in ("offset", "bytes", "sha256")}
        program["source"] = record.get("source")
        if type(program["offset"]) is type(program["bytes"]) is int and program["bytes"] >= 0:
            while programs and programs[-1]["offset"] >= program["offset"]:
                programs.pop()
            programs.append(program)
        return path

    def _start_anew(self) -> None:
        try:
            # The journal goes first and comes last: it vouches for the rest.
            (self._partial / JOURNAL).unlink(missing_ok=True)
            if self._bundle.exists():
                shutil.rmtree(self._bundle)
            self._bundle.mkdir()
            sync_folder(self._partial)
        except OSError as error:
            raise write_error(error, self._partial) from error


@contextlib.contextmanager
def open_workspace(
    out: Path, inputs: Inputs, *, overwrite: bool, needed: int = 0
) -> Iterator[Workspace | None]:
    """The locked ``OUT.partial``; None if a killed run had only to remove it: ``out`` is done.

    ``needed``: bytes that the bundle will have. If the disk has no room for what is missing, this
    is found before any work.

    Raises:
        UsageError: ``out`` exists, is not a bundle, or is being written by another process; or an
            export with other inputs was interrupted there, and ``overwrite`` is false.
        DiskFullError, ReadOnlyError, IoError.
    """
    partial = _partial_of(out)
    refuse_early(out, overwrite=overwrite)
    with _locked_folder(partial, out):
        try:
            if _only_removal_is_left(partial, out, inputs):
                _remove(partial)
                yield None
                return
            if (partial / _REPLACED).exists():
                if out.exists():
                    shutil.rmtree(partial / _REPLACED)
                else:
                    os.rename(partial / _REPLACED, out)
        except OSError as error:
            raise write_error(error, partial) from error
        check_target(out, overwrite=overwrite)
        anew = _begins_anew(partial, out, inputs, overwrite=overwrite)
        try:
            # What is there is kept, or is deleted because it belongs to another export.
            require_space(partial, needed - _bytes_in(partial / _BUNDLE))
        except DiskFullError:
            with contextlib.suppress(OSError):
                partial.rmdir()  # if it is empty
            raise
        with contextlib.closing(Workspace(partial, inputs, anew=anew)) as workspace:
            yield workspace


def refuse_other(out: Path, inputs: Inputs, *, overwrite: bool) -> None:
    """Raises the UsageError of :func:`open_workspace` for an export with other inputs, as far as
    they are known, before any work."""
    partial = _partial_of(out)
    if partial.exists():
        with _locked_folder(partial, out):
            _begins_anew(partial, out, inputs, overwrite=overwrite)


def refusal(out: Path, other: str) -> UsageError:
    """The error for an interrupted export that this one must not delete; ``other``: of what."""
    partial = _partial_of(out)
    made = made_for(out)
    return UsageError(
        f"an export {other} was interrupted here: {f'{made}, ' if made else ''}"
        f"{size(_bytes_in(partial / _BUNDLE))} in {partial}",
        file=out,
        remedy="Export the same again to continue it, choose another name, or give `overwrite` to "
        "delete it",
    )


def refuse_early(out: Path, *, overwrite: bool) -> None:
    """Raises the UsageError or IoError of :func:`open_workspace` if it can be foreseen, before any
    work."""
    if not out.name:
        raise UsageError("cannot hold a bundle", file=out, remedy="Name a new folder")
    try:
        if out.exists():
            with contextlib.suppress(OSError):
                _partial_of(out).rmdir()  # empty: a run was killed in its very last step
        has_partial = _partial_of(out).exists()
    except OSError as error:
        raise write_error(error, out) from error
    if not has_partial:
        check_target(out, overwrite=overwrite)


def refuse_without_room(out: Path, needed: int, download: Download | None) -> None:
    """Raises the DiskFullError of :func:`open_workspace` before any work. What is to be downloaded
    counts too if it comes onto the same disk."""
    partial = _partial_of(out)
    try:
        if partial.exists() and not (partial / _BUNDLE).exists() and out.exists():
            return  # perhaps the bundle is finished, and only a removal is left
        make_folder(out.parent, out, "Name another folder")
        needed -= _bytes_in(partial / _BUNDLE)
        device = out.parent.stat().st_dev
        fetched = download.bytes if download and download.folder.stat().st_dev == device else 0
    except FileNotFoundError:
        return  # another export is at work here, which is found later
    except OSError as error:
        raise write_error(error, partial) from error
    what = "the bundle and the weights to be downloaded need" if fetched else "the bundle needs"
    require_space(out.parent, needed + fetched, what)


def _partial_of(out: Path) -> Path:
    return out.with_name(out.name + PARTIAL)


@contextlib.contextmanager
def _locked_folder(partial: Path, out: Path) -> Iterator[None]:
    try:
        make_folder(out.parent, out, "Name another folder")
        partial.mkdir(exist_ok=True)
        names = {entry.name for entry in partial.iterdir()}
        foreign = JOURNAL in names and not is_journal(partial / JOURNAL)
        if foreign or names - {JOURNAL, _BUNDLE, _REPLACED}:
            raise UsageError(
                "exists and is not an unfinished export", file=partial, remedy="Move it away"
            )
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise write_error(error, partial) from error
    try:
        if not try_lock(descriptor, partial):
            raise UsageError(
                "another export is writing here", file=partial, remedy="Wait for it to end"
            )
        if not _same_folder(descriptor, partial):
            # The other process finished between our open and our lock.
            raise UsageError("another export has just been written here", file=out)
        yield
    finally:
        os.close(descriptor)


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuses a target that exists, unless it is a bundle (or empty) to be overwritten."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UsageError(
            "already exists", file=out, remedy="Choose another name, or give `overwrite`"
        )
    if out.is_symlink() or not out.is_dir():
        raise UsageError("is not a folder and is not overwritten", file=out)
    if any(out.iterdir()) and not (out / MANIFEST_FILE).is_file():
        raise UsageError(
            "holds files that do not belong to a bundle, and is not overwritten",
            file=out,
            remedy="Move it",
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _same_folder(descriptor: int, path: Path) -> bool:
    ours = os.fstat(descriptor)
    try:
        current = os.stat(path)
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (current.st_dev, current.st_ino)


def _first_line(partial: Path) -> Record:
    """Of the journal; empty if there is none."""
    line, end, _ = (read_journal(partial) or b"").partition(b"\n")
    return (parse_object(line) or {}) if end else {}


def _begins_anew(partial: Path, out: Path, inputs: Inputs, *, overwrite: bool) -> bool:
    """Whether what is there is of other inputs, and to be deleted. Raises UsageError if it may not
    be."""
    other = inputs.difference(_first_line(partial))
    if other is None:
        return False
    if not overwrite and _holds_anything(partial, out):
        raise refusal(out, other)
    return True


def _holds_anything(partial: Path, out: Path) -> bool:
    """Whether anything was finished there: a file, or an expert."""
    files = [path for path in (partial / _BUNDLE).rglob("*") if path.is_file()]
    return any(path.suffix != ".tmp" for path in files) or bool(files and made_for(out))


def _only_removal_is_left(partial: Path, out: Path, inputs: Inputs) -> bool:
    """Whether a run with the same inputs was killed after it had renamed its bundle."""
    renamed = not (partial / _BUNDLE).exists() and (out / MANIFEST_FILE).is_file()
    return renamed and _first_line(partial) == inputs.line()


def _remove(partial: Path) -> None:
    """Removes what is left next to a finished bundle, the journal last."""
    if (partial / _REPLACED).exists():
        shutil.rmtree(partial / _REPLACED)
    (partial / JOURNAL).unlink()
    partial.rmdir()
