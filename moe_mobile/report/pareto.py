# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The chart of what routings cost against what they save, of one size of the cache."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from moe_mobile.base.json_field import Json
from moe_mobile.base.text import change_text, digits
from moe_mobile.report.figure import Figure, Key, note, plain, points, rule, short, time_layout
from moe_mobile.tune.choice import Candidate, Limit, front

# Of a series' points, and of its key.
_MARKS = (
    ("circle", "dot"),
    ("diamond-open", "diamond"),
    ("square", "square"),
    ("circle-open", "ring"),
)
_COLOURS = 8
_VIEW = 2.2
"""The chart ends so many times above the limit: what is far beyond would flatten all the rest."""
_FAR = 5
"""A limit so many times above all would do the same, and is left out."""


def loads_front(group: Sequence[Candidate], chosen: Candidate, limit: Limit) -> Figure:
    """Change of the perplexity over loads per token-layer."""
    title = "experts read per token and layer"
    return _scatter("loads", title, group, chosen, limit, lambda one: one.loads)


def speed_front(group: Sequence[Candidate], chosen: Candidate, limit: Limit) -> Figure | None:
    """The same over tokens per second of the rows that were measured; None without such rows."""
    measured = [one for one in group if one.speed is not None]
    if not measured:
        return None

    def speed(one: Candidate) -> float:
        return one.speed or 0.0

    return _scatter("speed", "tokens/s", measured, chosen, limit, speed, more_is_better=True)


def told(one: Candidate) -> str:
    """A change with its error in words: "+0.63 ± 0.35 %"."""
    return change_text(one.change, one.error) if one.row.lossy else "unchanged"


def _scatter(
    name: str,
    unit: str,
    group: Sequence[Candidate],
    chosen: Candidate,
    limit: Limit,
    across: Callable[[Candidate], float],
    *,
    more_is_better: bool = False,
) -> Figure:
    allowed = 100 * limit.change(chosen.exact)
    low, high = _view(group, allowed)
    layout = time_layout(unit, "change of perplexity, %", 420)
    layout["margin"] |= {"r": 16, "b": 44}
    layout["xaxis"] |= {"range": [0, 1.06 * max(map(across, group)) or 1], "fixedrange": True}
    layout["yaxis"] |= {"range": [low, high], "zeroline": True}
    layout["yaxis"].pop("rangemode")
    layout["dragmode"] = False
    above = "" if allowed <= high else ", far above this chart"
    keys = [Key("@alert", f"limit {limit.text}{above}", "dash"), Key("@muted", "the front", "line")]
    if not above:
        _limit_line(layout, allowed, limit)
    data = [_line(group, across, high, more_is_better)]
    for index, (series, members) in enumerate(_series(group).items()):
        symbol, shape = _MARKS[index % len(_MARKS)]
        colour = "@ink" if series == "exact" else f"@c{(index - 1) % _COLOURS}"
        if series != "exact":
            keys.append(Key(colour, _key(series, members), shape))
        data.append(_points(members, across, high, colour, symbol, unit))
    for one in group:
        y = min(100 * one.change, high)
        if one == chosen:
            data.append(_ring(across(one), y))
            layout["annotations"].append(_pointer("chosen", across(one), y))
        elif one.row.requested == "exact":
            layout["annotations"].append(_below("exact", across(one), y))
    words = "; ".join(
        f"{one.row.marked}: {digits(across(one), 3)} {unit}, {told(one)}" for one in group[:12]
    )
    alt = f"Change of the perplexity over {unit}; chosen: {chosen.row.marked}. {words}"
    return Figure(f"front-{name}", alt, data, layout, keys)


def _limit_line(layout: Json, allowed: float, limit: Limit) -> None:
    rule(layout, allowed, f"limit {limit.text}", "@alert", "dash")
    # Inside: a phone has no room next to the chart.
    layout["annotations"][-1] |= {"x": 1, "xanchor": "right", "yanchor": "bottom"}


def _view(group: Sequence[Candidate], allowed: float) -> tuple[float, float]:
    """What y shows: zero, what is near, and the limit unless that is far above all."""
    changes = [100 * one.change for one in group]
    highest = max((y for y in changes if math.isfinite(y)), default=0.0)
    high = max(_VIEW * allowed, 0.1)
    if max(changes) <= high:
        high = max(1.15 * max(allowed, highest), 0.1)
    if allowed > _FAR * highest > 0:
        high = 1.5 * highest
    low = min(0.0, *changes)
    return low - 0.08 * (high - low), high


def _series(group: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Candidates that differ in their method's strength alone, by what they have in common."""
    found: dict[str, list[Candidate]] = {"exact": []}
    for one in group:
        name = re.sub(r"^([a-z-]+):[0-9.e+-]+", r"\1", one.row.label)
        found.setdefault(name.replace(",", ", "), []).append(one)
    return {name: members for name, members in found.items() if members}


def _key(series: str, members: Sequence[Candidate]) -> str:
    return series + " (lossy)" * any(one.row.lossy for one in members)


def _line(
    group: Sequence[Candidate],
    across: Callable[[Candidate], float],
    high: float,
    more_is_better: bool,
) -> Json:
    """Joins the front, in steps: what is above and beyond of a step is worse than its corner."""
    sign = -1 if more_is_better else 1
    marks = front([(sign * across(one), one.change) for one in group])
    best = sorted(
        (sign * across(one), one.change) for one, m in zip(group, marks, strict=True) if m
    )
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [short(sign * x) for x, _ in best],
        "y": [short(min(100 * y, high)) for _, y in best],
        "line": {"color": "@muted", "width": 1.5, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _points(
    members: Sequence[Candidate],
    across: Callable[[Candidate], float],
    high: float,
    colour: str,
    symbol: str,
    unit: str,
) -> Json:
    beyond = [100 * one.change > high for one in members]
    texts = [
        f"<b>{plain(one.row.marked)}</b><br>{digits(across(one))} {unit}<br>perplexity "
        f"{one.row.perplexity:.4f}: {told(one)}<br>{100 * one.row.hit_rate:.1f} % hits, "
        f"{100 * one.row.changed_share:.1f} % of the experts changed"
        + ("<br>far above this chart" if out else "")
        for one, out in zip(members, beyond, strict=True)
    ]
    error = {
        "type": "data",
        "array": [
            0 if out or one.error is None else short(100 * one.error)
            for one, out in zip(members, beyond, strict=True)
        ],
        "color": colour,
        "thickness": 0.7,
        "width": 0,
    }
    marker = {
        "color": colour,
        "size": 9,
        "symbol": ["triangle-up-open" if out else symbol for out in beyond],
        "line": {"width": 2 if symbol.endswith("open") else 0, "color": colour},
    }
    y = [short(min(100 * one.change, high)) for one in members]
    x = [across(one) for one in members]
    return points(x, y, texts, error_y=error, marker=marker, cliponaxis=False)


def _ring(x: float, y: float) -> Json:
    line = {"width": 2.5, "color": "@ink"}
    marker = {"symbol": "circle-open", "size": 19, "color": "@ink", "line": line}
    return points([x], [short(y)], None, marker=marker, cliponaxis=False)


def _pointer(text: str, x: float, y: float) -> Json:
    """With an arrow from below the point, if no part of a front is there."""
    arrow = {"showarrow": True, "arrowhead": 0, "arrowwidth": 1.2, "arrowcolor": "@ink"}
    return _below(text, x, y) | arrow | {"ax": -4, "ay": 34, "yshift": -8}


def _below(text: str, x: float, y: float) -> Json:
    font = {"color": "@ink", "size": 12}
    return note(f"<b>{text}</b>", short(x), short(y), yshift=-14, font=font)
