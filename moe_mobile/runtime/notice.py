# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The NOTICE of a runtime: what is in it, by whom, under which licence."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import moe_mobile
from moe_mobile.errors import UnsupportedError
from moe_mobile.runtime.glibc import Rewritten


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

_GLIBC = _Part(
    "The GNU C Library",
    ("ld-linux-", "libc.", "libm.", "libpthread.", "libdl.", "librt.", "libmvec."),
    "GNU Lesser General Public License 2.1 or later. Unchanged, from the packages of the"
    "\nsystem this was built on, which also offers their sources. Each file can be replaced by"
    "\nanother build of the same library.",
)
_GLIBC_CHANGED = (
    "GNU Lesser General Public License 2.1 or later (below). From the packages of the system"
    "\nthis was built on, which also offers their sources. Two files were changed (see below), the"
    "\nothers were not. Each file can be replaced by another build of the same library."
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
    _GLIBC,
)
_OTHER = _Part("Other libraries of the system this was built on", ("",), "See its packages.")

# Where Debian and Ubuntu keep it.
_LGPL = Path("/usr/share/common-licenses/LGPL-2.1")

# Distributions installed by pip whose licence has to accompany their binaries.
_TEXTS = ("executorch", "nlohmann-json")


def notice(
    files: Iterable[str],
    *,
    static: bool = False,
    names: Mapping[str, str] | None = None,
    rewritten: Mapping[str, Rewritten] | None = None,
) -> str:
    """The text for a runtime of ``files``; equal for equal files.

    ``static``: ExecuTorch and the C++ library are inside ``moe_runner``. ``names``: what files are
    called in the folder, if otherwise. ``rewritten``: those of glibc's that were changed.

    Raises UnsupportedError if glibc was changed and its licence is not on this machine.
    """
    groups: dict[_Part, list[str]] = {}
    for name in sorted(files):
        base = name.rpartition("/")[2]
        part = next((part for part in _PARTS if base.startswith(part.starts)), _OTHER)
        groups.setdefault(part, []).append(_shown(name, names))
    sections = ["What this folder is made of, and under which terms."]
    for part in (*_PARTS, _OTHER):
        if part in groups:
            terms = _GLIBC_CHANGED if part is _GLIBC and rewritten else part.terms
            sections.append(f"{part.title}\n  {', '.join(groups[part])}\n{terms}")
    if static:
        sections.append(
            f"Inside moe_runner: {_EXECUTORCH.title}\n{_EXECUTORCH.terms}\n"
            "and libc++ of the Android NDK: Apache License 2.0 with LLVM exceptions."
        )
    if rewritten:
        sections.append(_changes(rewritten, names))
    for distribution in _TEXTS:
        sections += [f"{'-' * 72}\n{distribution}\n\n{text}" for text in _licences(distribution)]
    if rewritten:
        sections.append(f"{'-' * 72}\nGNU C Library\n\n{_lgpl()}")
    return "\n\n".join(sections) + "\n"


def _shown(name: str, names: Mapping[str, str] | None) -> str:
    return f"{names[name]} ({name})" if names else name


def _changes(rewritten: Mapping[str, Rewritten], names: Mapping[str, str] | None) -> str:
    lines = [
        "Changes to the GNU C Library",
        f"moe-mobile {moe_mobile.__version__} changed two files when it made this folder. Android "
        "refuses some system calls\nto apps. Where these files made one, they now go on as if the "
        "kernel did not know it (ENOSYS):",
    ]
    for name, file in sorted(rewritten.items()):
        calls = ", ".join(f"{change.call} at {change.offset:#x}" for change in file.changes)
        lines.append(f"  {_shown(name, names)}, {file.origin}: {calls}")
    versions = " and ".join(sorted({file.origin.rpartition(" ")[2] for file in rewritten.values()}))
    lines.append(
        "moe_mobile/runtime/glibc.py in moe-mobile's sources did it. The sources of the files "
        f"before the change\nare the source package glibc {versions} of that distribution; all of "
        "Debian's are kept at\nhttps://snapshot.debian.org/package/glibc/"
    )
    return "\n".join(lines)


def _lgpl() -> str:
    if not _LGPL.is_file():
        raise UnsupportedError(
            "is missing: the licence of the GNU C Library has to go with a changed copy of it",
            file=_LGPL,
            remedy="Install it: on Debian and Ubuntu it is a part of base-files",
        )
    return _LGPL.read_text(encoding="utf-8").strip()


def _licences(distribution: str) -> list[str]:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    paths = sorted(path for path in files if ".dist-info/licenses/" in path.as_posix())
    return [path.read_text(encoding="utf-8").strip() for path in paths]
