# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The versions that this package pins. pyproject.toml alone states them."""

from __future__ import annotations

import functools
import importlib.metadata
import re

from moe_mobile.errors import UnsupportedError


@functools.cache
def pinned(package: str) -> str:
    """The one version of ``package`` that moe-mobile requires.

    Raises UnsupportedError if moe-mobile is not installed, but only lies in a folder.
    """
    try:
        required = importlib.metadata.requires("moe-mobile") or []
    except importlib.metadata.PackageNotFoundError:
        required = []
    for line in required:
        match = re.match(rf"{package}==([0-9.]+)", line)
        if match:
            return match[1]
    raise UnsupportedError(
        f"moe-mobile is not installed: the version of {package} that it requires is unknown",
        remedy="Install the package: `make venv` in a checkout, else `pip install`",
    )


def executorch_version() -> str:
    """The version of ExecuTorch that the engine is compiled against and programs are made for."""
    return pinned("executorch")
