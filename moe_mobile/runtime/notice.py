# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The NOTICE of a runtime: what is in it, by whom, under which licence."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class _Part:
    title: str
    starts: tuple[str, ...]
    terms: str


_EXECUTORCH = _Part(
    "ExecuTorch, with XNNPACK, cpuinfo, pthreadpool, FlatBuffers and Eigen",
    ("libexecutorch",),
    "BSD 3-Clause License (below); XNNPACK BSD 3-Clause, cpuinfo and pthreadpool BSD 2-Clause,"
    "\nFlatBuffers Apache License 2.0, Eigen Mozilla Public License 2.0.",
)

# What a file belongs to is decided by the start of its name; the first match holds.
_PARTS = (
    _Part(
        "moe-mobile, with nlohmann/json",
        ("moe_runner",),
        "Apache License 2.0; nlohmann/json, compiled in, under the MIT License (below).",
    ),
    _EXECUTORCH,
    _Part(
        "GCC's run-time libraries",
        ("libstdc++.", "libgcc_s.", "libatomic.", "libgomp."),
        "GNU General Public License 3 with the GCC Runtime Library Exception 3.1. Unchanged, from\n"
        "the packages of the system this was built on, which also offers their sources.",
    ),
    _Part(
        "The GNU C Library",
        ("ld-linux-", "libc.", "libm.", "libpthread.", "libdl.", "librt.", "libmvec."),
        "GNU Lesser General Public License 2.1 or later. Unchanged, from the packages of the"
        "\nsystem this was built on, which also offers their sources. Each file can be replaced by"
        "\nanother build of the same library.",
    ),
)
_OTHER = _Part("Other libraries of the system this was built on", ("",), "See its packages.")

# Distributions installed by pip whose licence has to accompany their binaries.
_TEXTS = ("executorch", "nlohmann-json")


def notice(files: Iterable[str], *, static: bool = False) -> str:
    """The text for a runtime of ``files``; equal for equal files.

    ``static``: ExecuTorch and the C++ library are inside ``moe_runner``.
    """
    groups: dict[_Part, list[str]] = {}
    for name in sorted(files):
        base = name.rpartition("/")[2]
        part = next((part for part in _PARTS if base.startswith(part.starts)), _OTHER)
        groups.setdefault(part, []).append(name)
    sections = ["What this folder is made of, and under which terms."]
    for part in (*_PARTS, _OTHER):
        if part in groups:
            sections.append(f"{part.title}\n  {', '.join(groups[part])}\n{part.terms}")
    if static:
        sections.append(
            f"Inside moe_runner: {_EXECUTORCH.title}\n{_EXECUTORCH.terms}\n"
            "and libc++ of the Android NDK: Apache License 2.0 with LLVM exceptions."
        )
    for distribution in _TEXTS:
        sections += [f"{'-' * 72}\n{distribution}\n\n{text}" for text in _licences(distribution)]
    return "\n\n".join(sections) + "\n"


def _licences(distribution: str) -> list[str]:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    paths = sorted(path for path in files if ".dist-info/licenses/" in path.as_posix())
    return [path.read_text(encoding="utf-8").strip() for path in paths]
