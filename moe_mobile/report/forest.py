# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The chart of comparisons: ratios and their intervals about 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moe_mobile.base.text import digits
from moe_mobile.bench.row import Row
from moe_mobile.report.compare import REPEATED, Comparison
from moe_mobile.report.entry import Entry
from moe_mobile.report.figure import (
    Figure,
    Key,
    listing,
    logarithmic,
    plain,
    points,
    short,
    upright,
)
from moe_mobile.report.settings import label, settings, varying

# Beyond it, equal factors should look equal: an axis of logarithms.
_LOGARITHMIC_FROM = 3

_SHOWN = ("faster", "slower")


def context(setting: str, row: Row, rows: Sequence[Row]) -> str:
    """What both rows of a comparison have in common and other rows have not."""
    names = varying([settings(other) for other in rows])
    if setting != REPEATED:
        names = [name for name in names if name != setting]
    parts = [label(settings(row), names)] if names else []
    if len({other.test_name for other in rows}) > 1:
        parts.append(row.test_name)
    return " · ".join(part for part in parts if part)


def ratio_text(comparison: Comparison) -> str:
    """The ratio with its interval if there is one, and what to conclude."""
    ratio = comparison.ratio
    if ratio.low is None or ratio.high is None:
        return f"{digits(ratio.value, 3)}x\n{ratio.note}: no interval"
    interval = f"[{digits(ratio.low, 3)}, {digits(ratio.high, 3)}]"
    return f"{digits(ratio.value, 3)}x {interval}\n{ratio.verdict}"


def forest(setting: str, comparisons: Sequence[Comparison], entries: Mapping[Row, Entry]) -> Figure:
    """The comparisons of one setting, each a dot with its interval, a line at no difference."""
    rows = list(entries)
    labels = []
    for comparison in comparisons:
        before, after = comparison.values()
        common = context(setting, comparison.base, rows)
        labels.append((f"{before} → {after}" + (f" · {common}" if common else ""), ""))
    labels = [(text, ratio_text(c)) for (text, _), c in zip(labels, comparisons, strict=True)]
    layout, centres = listing(labels, "times the first; right of 1 is faster")
    ends = [1.0]
    for comparison in comparisons:
        ratio = comparison.ratio
        ends += [value for value in (ratio.value, ratio.low, ratio.high) if value is not None]
    if max(ends) / min(ends) > _LOGARITHMIC_FROM:
        logarithmic(layout["xaxis"], min(ends), max(ends))
    layout["shapes"] = [upright(1, "@ink", 1.2, dash="dot") | {"layer": "below"}]
    data = []
    for comparison, (text, value), y in zip(comparisons, labels, centres, strict=True):
        ratio = comparison.ratio
        low, high = (ratio.value if end is None else end for end in (ratio.low, ratio.high))
        colour = entries[comparison.other].colour
        hover = f"<b>{plain(text)}</b><br>" + plain(value).replace("\n", "<br>")
        marker = {
            "color": colour if ratio.verdict in _SHOWN else "@paper",
            "size": 10,
            "line": {"color": colour, "width": 2},
        }
        error = {
            "type": "data",
            "symmetric": False,
            "array": [short(high - ratio.value)],
            "arrayminus": [short(ratio.value - low)],
            "color": colour,
            "thickness": 2,
            "width": 5,
        }
        data.append(points([ratio.value], [y], [hover], marker=marker, error_x=error))
    words = "; ".join(f"{text}: " + value.replace("\n", ", ") for text, value in labels[:12])
    keys = (
        Key("@muted", "the interval does not hold 1: a difference", "dot"),
        Key("@muted", "no difference shown, or no interval", "ring"),
    )
    alt = f"Ratios of throughput by {setting}. {words}"
    return Figure(f"compare-{plain(setting)}", alt, data, layout, keys)
