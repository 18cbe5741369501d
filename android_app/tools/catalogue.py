# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The list of versions and libraries, which Gradle reads too."""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

from android_app.tools.places import ANDROID

FILE = ANDROID / "gradle/libs.versions.toml"


@cache
def _catalogue() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text("utf-8"))


def version(name: str) -> str:
    """A version of the list."""
    return str(_catalogue()["versions"][name])


def bundle(name: str) -> list[str]:
    """The libraries of a bundle."""
    return list(_catalogue()["bundles"][name])


def coordinates(library: str) -> str:
    """``group:name:version`` of a library; ``group:name`` if a platform has its version."""
    entry = _catalogue()["libraries"][library]
    of = entry.get("version")
    if of is None:
        return str(entry["module"])
    return f"{entry['module']}:{of if isinstance(of, str) else version(of['ref'])}"
