# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers and tables for people."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Literal

_UNITS = ("KiB", "MiB", "GiB", "TiB")
_ROUNDINGS: dict[str, Callable[[Fraction], int]] = {
    "nearest": round,
    "up": math.ceil,
    "down": math.floor,
}

BYTE_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KiB": 1 << 10,
    "MB": 10**6,
    "MiB": 1 << 20,
    "GB": 10**9,
    "GiB": 1 << 30,
    "TB": 10**12,
    "TiB": 1 << 40,
}
"""Units that people may write sizes in."""


def parse_size(text: str) -> int:
    """Bytes of a size such as 512MiB, 2GiB or 1000000. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)", text)
    if match is None or match[2] not in BYTE_UNITS:
        raise ValueError(f"invalid size {text!r}: write it like 512MiB or 2GiB")
    return int(Fraction(match[1]) * BYTE_UNITS[match[2]])


def size_meant(text: str) -> str | None:
    """The size that 2G, 512mib or 2gb may be meant to be; None for any other text."""
    match = re.fullmatch(r"([0-9.]+)\s*([A-Za-z]{1,3})", text)
    if match is None or match[2] in BYTE_UNITS:
        return None
    by_letters = {unit.lower(): unit for unit in BYTE_UNITS}
    unit = by_letters.get(match[2].lower()) or by_letters.get(f"{match[2].lower()}ib")
    return f"{match[1]}{unit}" if unit else None


def size(bytes: int, rounded: Literal["nearest", "up", "down"] = "nearest") -> str:
    """A number of bytes in the unit that leaves one to three digits before the point.

    What is asked for is rounded up and what there is down: the text of an amount that is needed is
    then enough, and never looks like one that is too small.
    """
    if bytes < 1024:
        return f"{bytes} B"
    whole = _ROUNDINGS[rounded]
    power = 1
    while (tenths := whole(Fraction(10 * bytes, 1024**power))) >= 10 * 1024 and power < len(_UNITS):
        power += 1
    return f"{tenths // 10}.{tenths % 10} {_UNITS[power - 1]}"


def count(value: int) -> str:
    """A number of parameters: 8.5 M, 14.3 B."""
    return f"{value / 1e9:.1f} B" if value >= 1e9 else f"{value / 1e6:.1f} M"


def digits(value: float, significant: int = 4) -> str:
    """A number for people, never with an exponent: 2,070 and 0.0000123."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 10 ** (significant - 1):
        return f"{value:,.0f}"
    text = f"{value:.{significant}g}"
    return f"{Decimal(text):f}" if "e" in text else text


def rounded_up(value: float, places: int) -> str:
    """A number with so many digits after the point, and not a smaller one: as a limit it lets the
    number pass."""
    if not math.isfinite(value):
        return str(value)
    step, any_float = Decimal(1).scaleb(-places), Context(prec=400)
    return f"{Decimal(str(value)).quantize(step, ROUND_CEILING, any_float):f}"


def percent(share: float | None) -> str:
    """A share as a percentage; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def change_text(share: float, error: float | None) -> str:
    """A change with half of its interval: "+0.63 ± 0.35 %"; "lost" if it is infinite."""
    if not math.isfinite(share):
        return "lost"
    return f"{100 * share:+.2f}" + ("" if error is None else f" ± {100 * error:.2f}") + " %"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns under a ruled header; the first `left` columns are aligned to the left."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])
