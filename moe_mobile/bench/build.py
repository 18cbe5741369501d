# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a result says about the build it was measured with."""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
import subprocess


@functools.cache
def build() -> tuple[str, int]:
    """Commit and number of commits of the checkout this package runs from.

    ("unknown", 0) for an installed copy, as llama-bench has it for builds outside of git.
    """
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ("unknown", 0)
    commit = _git(root, "rev-parse", "--short", "HEAD")
    number = _git(root, "rev-list", "--count", "HEAD")
    if commit is None or number is None:
        return ("unknown", 0)
    return (commit, int(number))


def executorch_version() -> str:
    """Version of the installed ExecuTorch; "unknown" if there is none."""
    try:
        return importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
