# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Room on disks."""

from __future__ import annotations

import os
from pathlib import Path

from moe_mobile.base.text import size
from moe_mobile.errors import DiskFullError, read_error


def require_space(folder: Path, needed: int, what: str = "the bundle needs") -> None:
    """Raises a DiskFullError if the disk that ``folder`` is on has fewer bytes left for us."""
    try:
        space = os.statvfs(folder)
    except OSError as error:
        raise read_error(error, folder) from error
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise DiskFullError(
            f"{what} about {size(needed, 'up')} more, and {size(free, 'down')} are free",
            file=folder,
            remedy="Free some space, or name a folder on another disk",
        )
