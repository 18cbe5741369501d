# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The processor cores of this machine."""

from __future__ import annotations

import os


def cores() -> int:
    """On how many cores this process may run."""
    return len(os.sched_getaffinity(0))
