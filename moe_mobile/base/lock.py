# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A lock that keeps other processes away; the kernel drops it when its process ends."""

from __future__ import annotations

import fcntl
import os
from typing import IO, Any

from moe_mobile.errors import write_error


def try_lock(file: int | IO[Any], path: str | os.PathLike[str]) -> bool:
    """Take the exclusive lock of an open file or folder; False if another process holds it.

    ``path``: its name, for errors. Raises IoError if it cannot be locked at all.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise write_error(error, path) from error
    return True
