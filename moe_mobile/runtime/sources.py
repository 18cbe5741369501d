# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine's C++ sources: the checkout's own, else the copy inside the installed package."""

from __future__ import annotations

import hashlib
from pathlib import Path

from moe_mobile.errors import UnsupportedError

_ENGINE = Path("android_app/engine/src/main/cpp")
_SUFFIXES = {".h", ".cpp", ".cmake", ".txt"}


def find_sources() -> Path:
    """The folder with the CMakeLists.txt that builds the engine.

    Raises UnsupportedError if this installation has none.
    """
    here = Path(__file__).resolve().parent
    for root in (here.parent.parent, here / "sources"):
        if (root / "CMakeLists.txt").is_file() and (root / _ENGINE / "CMakeLists.txt").is_file():
            return root
    raise UnsupportedError(
        "the engine's sources, which building for a phone needs, are not installed",
        file=here / "sources",
        remedy="Install the package again: `pip install --force-reinstall --no-deps moe-mobile`",
    )


def sources_digest(root: Path) -> str:
    """SHA-256 over names and contents of what ``moe_runner`` is built from."""
    paths = [root / "CMakeLists.txt", root / "CMakePresets.json"]
    for folder in (root / "cmake", root / _ENGINE):
        paths += [path for path in folder.rglob("*") if path.suffix in _SUFFIXES]
    whole = hashlib.sha256()
    for path in sorted(paths):
        name = path.relative_to(root)
        # Only the Python module is made of this room.
        if name.is_relative_to(_ENGINE / "python"):
            continue
        content = path.read_bytes()
        whole.update(f"{name.as_posix()}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()
