# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts from phones and files, made safe to show."""

from __future__ import annotations

import re
from typing import Any

# Control characters but tab and newline; what turns the direction of text, and with it what is
# read; and halves of surrogate pairs, which no terminal can be sent.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def without_controls(text: str) -> str:
    """The text without characters that control a terminal; tabs and ends of lines stay."""
    return _CONTROL.sub("\ufffd", text)


def all_without_controls(value: Any) -> Any:
    """A JSON value with all texts made safe, names of members too."""
    if isinstance(value, str):
        return without_controls(value)
    if isinstance(value, list):
        return [all_without_controls(one) for one in value]
    if isinstance(value, dict):
        return {without_controls(name): all_without_controls(one) for name, one in value.items()}
    return value
