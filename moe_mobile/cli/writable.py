# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether files can be written, asked before the work whose result they are to hold."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile

from moe_mobile.errors import IoError, UsageError, write_error

__all__ = ["check_writable", "same_file"]


def check_writable(path: pathlib.Path | None, *, replaced: bool) -> None:
    """Fail where the file could not be written; None is no file.

    ``replaced``: it is written under another name and then renamed, in a folder that is made where
    there is none. Else it is opened where it is.

    Raises DiskFullError, ReadOnlyError or IoError, and UsageError for a pipe or device where the
    file is not replaced.
    """
    if path is None:
        return
    target = pathlib.Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            if not replaced and not target.is_dir():
                raise UsageError("is no regular file", file=path, remedy="Name another one")
            return  # a pipe would wait for its reader, and a device may act
        if target.exists() and not replaced:
            with open(target, "ab"):
                return
        folder = target.parent
        while replaced and not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise IoError(
                f"not writable: {folder} {what}", file=path, remedy="Name a file in another folder"
            )
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".moe-mobile-"):
            pass
    except OSError as error:
        raise write_error(error, path) from error


def same_file(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two paths lead to the same file, which need not be there yet."""
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return one.resolve() == other.resolve()
