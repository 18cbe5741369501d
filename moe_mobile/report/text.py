# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers and flags in words for readers of a page."""

from __future__ import annotations

from moe_mobile.base.routings import is_lossy

__all__ = ["digits", "explain", "marked"]

_FLAGS = {
    "virtual phone": "its cores and flash are the computer's it runs on, its temperatures and "
    "battery are made up: nothing here is a phone's speed",
    "limit: hard": "the kernel held the virtual phone to its memory",
    "limit: soft": "a watchdog held the virtual phone to its memory, so it may have used more for "
    "moments",
    "limit: none": "nothing held the virtual phone to a phone's memory",
}


def digits(value: float, significant: int = 4) -> str:
    """A number for people: no exponent where it is large."""
    if abs(value) >= 10 ** (significant - 1):
        return f"{value:,.0f}"
    return f"{value:.{significant}g}"


def explain(flag: str) -> str:
    """A row's flag, with what it means where it does not say so itself."""
    meaning = _FLAGS.get(flag)
    return flag if meaning is None else f"{flag}: {meaning}"


def marked(routing: str) -> str:
    """A routing, with a word where it changes what the model computes."""
    return routing + " (lossy)" * is_lossy(routing)
