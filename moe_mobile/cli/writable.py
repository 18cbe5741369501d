# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that a command writes: checks before the work, and how to continue it."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from moe_mobile.errors import (
    IoError,
    UsageError,
    write_error,
)


def check_writable(path: pathlib.Path | None, *, replaced: bool) -> None:
    """Fail if the file could not be written; None: there is no file.

    Its folder is created if needed. ``replaced``: it is written under another name and then
    renamed. Else it is opened in place.

    Raises DiskFullError, ReadOnlyError or IoError, and UsageError for a folder, and for a pipe or
    device if the file is not replaced.
    """
    if path is None:
        return
    try:
        if path.exists() and not path.is_file():
            if not replaced or path.is_dir():
                raise UsageError("is not a regular file", file=path, remedy="Name another one")
            return  # the reader of a pipe would see its end, and a device may act
        target = pathlib.Path(os.path.realpath(path))
        if target.exists() and not replaced:
            with open(target, "ab"):
                return
        folder = target.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise IoError(
                f"not writable: {folder} {what}", file=path, remedy="Name a file in another folder"
            )
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".moe-mobile-"):
            pass
    except OSError as error:
        raise write_error(error, path) from error


def _same_file(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two paths lead to the same file, which need not be there yet."""
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)  # Path.resolve raises for a loop


def check_outputs(
    outputs: Mapping[str, pathlib.Path | None],
    inputs: Mapping[str, pathlib.Path | Sequence[pathlib.Path] | None],
) -> None:
    """Fail if an output would replace another one, an input, or a file in an input's folder.

    Both are options, or arguments, with the files that they name; None: no file.

    Raises UsageError.
    """
    written = [(option, path) for option, path in outputs.items() if path is not None]
    for (one, path), (other, same) in itertools.combinations(written, 2):
        if _same_file(path, same):
            raise UsageError(
                "both name the same file",
                file=same,
                setting=f"{one}, {other}",
                remedy=f"Name another file with {other}",
            )
    for option, path in written:
        for source, named in inputs.items():
            for read in (named,) if isinstance(named, pathlib.Path) else named or ():
                if _same_file(path, read) or _is_in(path, read):
                    part = "what" if not read.is_dir() else "a file in what"
                    raise UsageError(
                        f"the first would replace {part} the second names",
                        file=path,
                        setting=f"{option}, {source}",
                        remedy=f"Name another file with {option}",
                    )


def opened_path(file: IO[bytes] | None) -> pathlib.Path | None:
    """Where an option's open file lies, for :func:`check_outputs`; stdin may be a file too."""
    if file is None:
        return None
    name = getattr(file, "name", None)
    return pathlib.Path(name if isinstance(name, str) and name != "<stdin>" else "/dev/stdin")


def _is_in(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether it is a file that is there, somewhere in the folder."""
    with contextlib.suppress(OSError):  # reading one, or writing the other, says why
        if folder.is_dir() and path.is_file():
            return folder.resolve() in path.resolve().parents
    return False
