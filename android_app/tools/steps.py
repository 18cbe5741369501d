# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What was made already: a step runs again only if something that it reads has changed."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from android_app.tools.places import OUT, ROOT


@contextmanager
def alone() -> Iterator[None]:
    """While one build works in this checkout, others wait."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another build of this checkout", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(inputs: Iterable[str | Path]) -> str:
    """One hash of texts, and of files and folders with all that is in them.

    Of files outside the checkout, which are downloads and do not change, only the names count.
    """
    whole = hashlib.sha256()
    for one in inputs:
        if isinstance(one, str) or not one.is_relative_to(ROOT):
            _add(whole, b"text", str(one).encode())
        else:
            for path in _files(one):
                _add(whole, str(path.relative_to(ROOT)).encode(), path.read_bytes())
    return whole.hexdigest()


def once(target: Path, inputs: Iterable[str | Path], make: Callable[[], None]) -> Path:
    """Make a file or folder, empty or absent before, unless it was made from the same inputs."""
    key, stamp = digest(inputs), target.with_name(target.name + ".made-from")
    if target.exists() and stamp.is_file() and stamp.read_text() == key:
        return target
    stamp.unlink(missing_ok=True)
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    make()
    stamp.write_text(key)
    return target


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [one for one in sorted(path.rglob("*")) if one.is_file() and one.suffix != ".pyc"]


def _add(whole: hashlib._Hash, name: bytes, data: bytes) -> None:
    for part in (name, data):
        whole.update(len(part).to_bytes(8, "little") + part)
