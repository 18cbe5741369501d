# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the engine's source files include."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

ENGINE = ROOT / "android_app/engine/src/main/cpp"


def included(name: str) -> set[str]:
    """All headers that a file includes, directly or not, as they are written.

    ``name`` and the project's own headers are relative to the engine's source root; of others only
    the name is known.
    """
    found: set[str] = set()
    open_files = [name]
    while open_files:
        path = ENGINE / open_files.pop()
        if not path.is_file():
            continue
        new = set(re.findall(r'^#include\s+["<]([^">]+)[">]', path.read_text(), re.MULTILINE))
        open_files += new - found
        found |= new
    return found


def sources() -> list[Path]:
    """The engine's .cpp files, relative to its source root."""
    return sorted(path.relative_to(ENGINE) for path in ENGINE.rglob("*.cpp"))
