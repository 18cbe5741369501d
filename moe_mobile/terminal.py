# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What phones and files say, made fit to be shown."""

from __future__ import annotations

import re

__all__ = ["without_controls"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_controls(text: str) -> str:
    """The text without what would act on a terminal; tabs and ends of lines stay."""
    return _CONTROL.sub("\ufffd", text)
