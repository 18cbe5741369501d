# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Prints the NOTICE of this crate: what is linked into a runner with text, under which terms.

    python write_notice.py > NOTICE

Asks cargo, for phones. A crate under several licences is taken under the first of :data:`TAKEN`
that it offers. Refuses one that offers none of them.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
from typing import Any

TARGET = "aarch64-unknown-linux-gnu"
TAKEN = ("Apache-2.0", "MIT", "BSL-1.0", "Zlib", "BSD-2-Clause", "BSD-3-Clause", "Unicode-3.0")
# The text is that of LICENSE, which goes with every runtime.
_IN_LICENSE = "Apache-2.0"
HERE = pathlib.Path(__file__).resolve().parent


def linked_crates() -> list[dict[str, Any]]:
    """The crates whose code is linked, but this one: not those that cargo only builds with."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", f"--filter-platform={TARGET}"]
    told = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout
    metadata = json.loads(told)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    found, left = set(), [root]
    while left:
        one = left.pop()
        kinds = {kind for target in packages[one]["targets"] for kind in target["kind"]}
        if one in found or "proc-macro" in kinds:
            continue
        found.add(one)
        for needed in nodes[one]["deps"]:
            if any(kind["kind"] is None for kind in needed["dep_kinds"]):
                left.append(needed["pkg"])
    names = (packages[one] for one in found - {root})
    return sorted(names, key=lambda package: (package["name"], package["version"]))


def taken(package: dict[str, Any]) -> list[str]:
    """The licences that a crate is used under. Raises ValueError without one of TAKEN."""
    licences = []
    for needed in re.split(r"\s+AND\s+", package["license"] or ""):
        offered = re.split(r"\s+OR\s+|\s*/\s*", needed.strip("()"))
        chosen = next((one for one in TAKEN if one in offered), None)
        if chosen is None:
            raise ValueError(f"{package['name']} is under {package['license']!r} only")
        licences.append(chosen)
    return licences


def texts(package: dict[str, Any], licence: str) -> list[str]:
    """The texts of a licence that a crate brings."""
    folder = pathlib.Path(package["manifest_path"]).parent
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    named = [path for path in paths if re.match("(?i)(un)?licen[cs]e|copying", path.name)]
    special = [path for path in named if licence.partition("-")[0].lower() in path.name.lower()]
    return [path.read_text(encoding="utf-8").strip() for path in special or named]


def notice() -> str:
    """The text."""
    rows, sections = [], []
    for package in linked_crates():
        licences = taken(package)
        rows.append(f"  {package['name']} {package['version']}: {', '.join(licences)}")
        for licence in licences:
            if licence != _IN_LICENSE:
                title = f"{'-' * 72}\n{package['name']} ({licence})"
                sections += [f"{title}\n\n{text}" for text in texts(package, licence)]
    begin = (
        "Crates from crates.io that are compiled into a moe_runner with text, with Rust's\n"
        "standard library (Apache-2.0). The text of the Apache License 2.0 is in moe-mobile's\n"
        "LICENSE."
    )
    return "\n\n".join([begin, "\n".join(rows), *sections]) + "\n"


if __name__ == "__main__":
    print(notice(), end="")
