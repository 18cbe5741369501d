# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a bundle's packed weights lie, as the engine looks for them."""

from __future__ import annotations

import os
from pathlib import Path

from moe_mobile.errors import MoeMobileError, UsageError


def packed_folder(bundle: Path, packed_dir: str | os.PathLike[str] | None = None) -> Path:
    """``packed_dir``, or the folder in the bundle with a store for each kind of CPU.

    Raises:
        UsageError: it is a link, or lies behind one in the bundle; the engine follows neither.
    """
    folder = bundle / ".packed" if packed_dir is None else Path(packed_dir)
    root = Path(os.path.realpath(bundle))
    for path in (folder, *folder.parents):
        in_bundle = Path(os.path.realpath(path.parent)).is_relative_to(root)
        if path == folder or in_bundle:
            _refuse_link(path)
    return folder


def packed_stores(bundle: Path, packed_dir: Path | None = None) -> list[tuple[Path, int]]:
    """The stores in :func:`packed_folder`, or that folder, each with the bytes of its files.

    Raises:
        UsageError: as :func:`packed_folder`, or a store is a link.
    """
    folder = packed_folder(bundle, packed_dir)
    if packed_dir is not None:
        folders = [folder]
    else:
        folders = sorted(folder.iterdir()) if folder.is_dir() else []
    stores = []
    for path in folders:
        _refuse_link(path)
        sizes = [file.lstat().st_size for file in _packed_files(path)]
        if sizes:
            stores.append((path, sum(sizes)))
    return stores


def refusal(store: Path) -> str | None:
    """Why the engine does not use this store here: it is another machine's or user's, for other
    CPUs, or damaged. None if its seals are right."""
    from moe_mobile import _native

    for file in sorted(_packed_files(store)):
        try:
            _native.check_packed(os.fspath(file))
        except MoeMobileError as error:
            return error.cause
    return None


def _packed_files(store: Path) -> list[Path]:
    if not store.is_dir():
        return []
    files = [path for path in store.iterdir() if path.suffix == ".packed"]
    return [path for path in files if path.is_file() and not path.is_symlink()]


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise UsageError(
            "packed weights are not read or written through a link",
            file=path,
            remedy="Delete the link, or name the folder that it leads to as `packed_dir`",
        )
