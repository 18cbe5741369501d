# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Java sources of R classes, which number the resources."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

_Name = tuple[str, str]  # kind and name, as in R.string.app_name


def r_sources(folder: Path, symbols: Path, package: str, aars: Sequence[Path]) -> list[Path]:
    """Write an R class for the app, and one for each AAR with the names that the AAR uses.

    ``symbols``: aapt2's list of all resources.
    """
    values = {(kind, name): (type_, value) for type_, kind, name, value in _lines(symbols)}
    wanted: dict[str, list[_Name]] = {package: list(values)}
    for aar in aars:
        names = [(kind, name) for _, kind, name, _ in _lines(aar / "R.txt")]
        if names:
            own = ElementTree.parse(aar / "AndroidManifest.xml").getroot().get("package", "")
            wanted.setdefault(own, []).extend(names)
    sources = []
    for package_, all_names in wanted.items():
        path = folder / package_.replace(".", "/") / "R.java"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = [name for name in dict.fromkeys(all_names) if name in values]
        path.write_text(_source(package_, known, values), "utf-8")
        sources.append(path)
    return sources


def _lines(path: Path) -> list[tuple[str, str, str, str]]:
    """Type, kind, name and value of each line of an R.txt; none if there is no such file."""
    if not path.is_file():
        return []
    lines = [line.split(" ", 3) for line in path.read_text("utf-8").splitlines()]
    return [(line[0], line[1], line[2], line[3]) for line in lines if len(line) == 4]


def _source(package: str, names: Sequence[_Name], values: dict[_Name, tuple[str, str]]) -> str:
    lines = [f"package {package};", "public final class R {"]
    for kind in sorted({kind for kind, _ in names}):
        lines.append(f"  public static final class {kind} {{")
        for name in names:
            if name[0] == kind:
                type_, value = values[name]
                lines.append(f"    public static final {type_} {name[1]} = {value};")
        lines.append("  }")
    return "\n".join([*lines, "}", ""])
