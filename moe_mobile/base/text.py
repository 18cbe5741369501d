# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers and tables for people."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["count", "percent", "size", "table"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(bytes: int) -> str:
    """A number of bytes in the unit that leaves one to three digits before the point."""
    value = float(bytes)
    unit = 0
    while round(value, 1) >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{bytes} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def count(value: int) -> str:
    """A number of parameters: 8.5 M, 14.3 B."""
    return f"{value / 1e9:.1f} B" if value >= 1e9 else f"{value / 1e6:.1f} M"


def percent(share: float | None) -> str:
    """A share as a percentage; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


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
