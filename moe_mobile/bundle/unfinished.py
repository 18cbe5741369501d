# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders that are no bundle yet: an export that has not finished, a name that is mistyped."""

from __future__ import annotations

import contextlib
import io
import stat
from dataclasses import dataclass
from pathlib import Path

from moe_mobile.base import limits
from moe_mobile.base.files import read_regular, reading
from moe_mobile.base.json_field import parse_object
from moe_mobile.bundle.manifest import MANIFEST_FILE
from moe_mobile.errors import BundleInvalidError, did_you_mean

PARTIAL = ".partial"
"""What the name of an export's folder ends with until the bundle is complete."""

JOURNAL = "export-journal.jsonl"
"""The file in that folder that lists what is finished, after a first line of its own."""

_NO_BUNDLE = "Name the folder of a bundle; `moe-mobile export MODEL OUT` makes one"

# Commands that take checkpoints know the model by this name, without a bundle.
_NO_DEMO = "Name the folder of a bundle; `moe-mobile export demo demo` makes it of the demo model"


def require_bundle(bundle: Path) -> None:
    """Raises BundleInvalidError unless it is a folder with something called ``bundle.json``, and
    IoError if that cannot be found out."""
    require_finished(bundle)
    with reading(bundle):
        is_there, is_folder = bundle.exists(), bundle.is_dir()
        path = bundle / MANIFEST_FILE
        has_manifest = is_folder and (path.exists() or path.is_symlink())
    if not is_folder:
        what = "it is not a folder" if is_there else "there is no such folder"
        makes = _NO_DEMO if bundle == Path("demo") else _NO_BUNDLE
        remedy = did_you_mean(bundle.name, _bundles(bundle.parent), makes)
        raise BundleInvalidError(f"not a bundle: {what}", file=bundle, remedy=remedy)
    if not has_manifest:
        raise BundleInvalidError(
            "not a bundle: bundle.json is missing", file=path, remedy=_NO_BUNDLE
        )


def require_finished(bundle: Path) -> None:
    """Raises BundleInvalidError if it is, or would be, the bundle of an export that stopped, and
    IoError if that cannot be found out.

    ``bundle``: the folder that the export was to write, or the one that it keeps its files in.
    """
    with reading(bundle):
        out = _target(bundle)
    if out is None:
        return
    raise BundleInvalidError(
        f"its export is not finished: {made_for(out)}, in {_partial(out)}",
        file=bundle,
        remedy=f"Run the same `moe-mobile export ... {out}` again: it continues where it stopped",
    )


@dataclass(frozen=True)
class Made:
    """What an unfinished export has made: complete files, and experts in them and in others."""

    files: int
    experts: int

    def __bool__(self) -> bool:
        return self.files + self.experts > 0

    def __str__(self) -> str:
        files = f"{self.files} file{' is' if self.files == 1 else 's are'} complete"
        experts = f"{self.experts} expert{' is' if self.experts == 1 else 's are'} made"
        return f"{files} and {experts}"


def made_for(out: Path) -> Made | None:
    """What an unfinished export to ``out`` has made; None if there is none."""
    out = out.absolute()
    if not out.name:  # the root
        return None
    journal = read_journal(_partial(out))
    if journal is None:
        return None
    files: set[str] = set()
    experts: set[tuple[str, str]] = set()  # by shard and offset
    for line in io.BytesIO(journal):
        record = parse_object(line) or {}
        if "path" in record and "sha256" in record:
            files.add(str(record["path"]))
        elif "unfinished" in record:
            experts.add((str(record["unfinished"]), str(record.get("offset"))))
    return Made(len(files), len(experts))


def read_journal(partial: Path) -> bytes | None:
    """The journal of an unfinished export. None if there is none: also if what has its name is a
    pipe, a device, a link, or a file that is larger than any journal."""
    if not is_journal(partial / JOURNAL):
        return None
    try:
        data = read_regular(partial / JOURNAL, limits.LINES_BYTES, links=False)
    except OSError:
        return None
    return data if len(data) <= limits.LINES_BYTES else None


def is_journal(path: Path) -> bool:
    """Whether there is a file that can be a journal, by its kind and size."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= limits.LINES_BYTES


def _partial(out: Path) -> Path:
    return out.with_name(out.name + PARTIAL)


def _target(bundle: Path) -> Path | None:
    """The folder that an unfinished export is to write, if ``bundle`` is of one."""
    if bundle.name and not bundle.exists() and is_journal(_partial(bundle) / JOURNAL):
        return bundle
    for folder in (bundle, bundle.parent):
        if folder.name.endswith(PARTIAL) and is_journal(folder / JOURNAL):
            return folder.with_name(folder.name.removesuffix(PARTIAL))
    return None


def _bundles(folder: Path) -> list[str]:
    """Names of the bundles in a folder."""
    with contextlib.suppress(OSError):
        return [one.name for one in folder.iterdir() if (one / MANIFEST_FILE).is_file()]
    return []
