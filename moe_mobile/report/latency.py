# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The chart of one row's decoded tokens: how long each took, and what it missed."""

from __future__ import annotations

import math
from typing import Any

from moe_mobile.base.command_line import command_line
from moe_mobile.base.text import digits
from moe_mobile.bench.row import PARTS, finite
from moe_mobile.report.entry import Entry
from moe_mobile.report.figure import (
    Figure,
    Key,
    logarithmic,
    note,
    points,
    rule,
    short,
    time_layout,
    upright,
)

MAX_POINTS = 4000
"""The most in one chart. More cannot be distinguished, and make a page slow."""

_PERCENTILES = ("p50", "p95", "p99")
_PLOT_PIXELS = 280  # about the height in which points are drawn
_NAME_PIXELS = 14

# An axis that shows a value 30 times the median flattens all others.
_LOGARITHMIC_FROM = 30
_SECONDARY = ("hits", "misses", "bytes_read")


def latency(entry: Entry) -> Figure | None:
    """Latency of each decoded token, repetitions in a row; None if none is recorded."""
    lists = [values for values in _latencies(entry) if values]
    if not lists:
        return None
    shown: list[tuple[int, float, int, int, dict[str, Any] | None]] = []
    position = 0
    layout = time_layout("decoded token, repetitions in a row", "ms per token", 360)
    parts = _decoded(entry)
    for repetition, values in enumerate(lists):
        if shown and len(shown) + len(values) > MAX_POINTS:
            break
        tokens = parts[repetition] if repetition < len(parts) else []
        for index, value in enumerate(values[:MAX_POINTS]):
            token = tokens[index] if index < len(tokens) else None
            shown.append((position + index, value, repetition + 1, index + 1, token))
        _separate(layout, position, len(values), repetition, len(lists))
        position += len(values)
    highest = max(value for _, value, *_ in shown)
    middle = sorted(value for _, value, *_ in shown)[len(shown) // 2]
    if middle > 0 and highest > _LOGARITHMIC_FROM * middle:
        layout["yaxis"]["title"] = {"text": "ms per token (log)"}
        lowest = min((value for _, value, *_ in shown if value > 0), default=highest)
        logarithmic(layout["yaxis"], lowest, highest)
    _percentile_lines(entry, layout, highest)
    layout["xaxis"]["range"] = [-0.015 * position, 1.015 * position]
    hit = [point for point in shown if not _misses(point[4])]
    missed = [point for point in shown if _misses(point[4])]
    data = []
    known = any(point[4] for point in shown)
    keys = []
    if hit:
        data.append(_markers(entry, hit, filled=not known))
        keys.append(Key("@muted", f"no miss ({len(hit)} tokens)", "ring"))
    if missed:
        data.append(_markers(entry, missed, filled=True))
        keys.append(Key(entry.colour, f"with misses, larger for more ({len(missed)})", "dot"))
    alt = f"Latency of every decoded token: {entry.label_with_test}"
    if known:
        alt += f". {len(missed)} of {len(shown)} tokens had misses"
    return Figure("latency", alt, data, layout, keys if known else ())


def latency_note(entry: Entry) -> str:
    """What a reader must know about the chart: what it leaves out or has not got."""
    lists = _latencies(entry)
    total = sum(map(len, lists))
    notes = []
    if total and not any(_decoded(entry)):
        notes.append(
            "Misses and parts of each token are not recorded: "
            f"`{command_line('bench', 'BUNDLE', out='FILE')}` records them."
        )
    fit = 0
    for values in lists:
        if fit and fit + len(values) > MAX_POINTS:
            break
        fit += min(len(values), MAX_POINTS)
    if fit < total:
        notes.append(f"The first {fit} of {total} tokens are shown.")
    return " ".join(notes)


def _decoded(entry: Entry) -> list[list[dict[str, Any]]]:
    return [
        [token for token in tokens if token.get("phase") == "decode"]
        for tokens in entry.row.repetitions
    ]


def _latencies(entry: Entry) -> list[list[float]]:
    """`itl_ns`; if it is missing in a row, the totals of its tokens."""
    lists = entry.row.latencies
    if any(lists):
        return lists
    totals = [[finite(token.get("total_ns")) for token in tokens] for tokens in _decoded(entry)]
    return [[value / 1e6 for value in values if value is not None] for values in totals]


def _misses(token: dict[str, Any] | None) -> float:
    return max(finite(token.get("misses")) or 0.0, 0.0) if token else 0.0


def _markers(entry: Entry, shown: list[Any], *, filled: bool) -> dict[str, Any]:
    misses = [_misses(point[4]) for point in shown]
    size = [short(5 if not value else 5 + 2.2 * math.sqrt(min(value, 40))) for value in misses]
    custom, lines = (
        [],
        ["repetition %{customdata[0]}, token %{customdata[1]}: <b>%{y:,.4~r} ms</b>"],
    )
    has_parts = any(point[4] for point in shown)
    for _, _, repetition, index, token in shown:
        custom.append([repetition, index, *(_hover(token) if has_parts else [])])
    if has_parts:
        names = [title for key, title in PARTS.items() if key != "rest"]
        lines += [f"{title} %{{customdata[{2 + i}]}} ms" for i, title in enumerate(names)]
        start = 2 + len(names)
        lines.append(
            f"%{{customdata[{start}]}} hits, %{{customdata[{start + 1}]}} misses, "
            f"%{{customdata[{start + 2}]}} KiB read"
        )
    marker = {
        "size": size if any(misses) else 5,
        "color": entry.colour if filled else "@paper",
        "opacity": 0.72 if filled else 1,
        "line": {"color": "@paper" if filled else "@muted", "width": 0.6 if filled else 1.2},
    }
    x, y = [point[0] for point in shown], [short(point[1]) for point in shown]
    return points(x, y, "<br>".join(lines), marker=marker, customdata=custom)


def _hover(token: dict[str, Any] | None) -> list[Any]:
    token = token or {}
    values = [finite(token.get(f"{key}_ns")) for key in PARTS if key != "rest"]
    texts: list[Any] = ["?" if value is None else digits(value / 1e6, 3) for value in values]
    for key in _SECONDARY:
        value = finite(token.get(key))
        scale = 1024 if key == "bytes_read" else 1
        texts.append("?" if value is None else f"{value / scale:.0f}")
    return texts


def _separate(layout: dict[str, Any], start: int, length: int, index: int, count: int) -> None:
    """Name a repetition above its tokens, and rule it off from the one before."""
    if count < 2:
        return
    name = f"repetition {index + 1}" if count <= 3 else str(index + 1)
    font = {"size": 11, "color": "@muted"}
    layout["annotations"].append(
        note(name, start + length / 2, 1, yref="paper", yanchor="bottom", font=font)
    )
    if index:
        layout["shapes"].append(upright(start - 0.5, "@rule", 1))


def _percentile_lines(entry: Entry, layout: dict[str, Any], highest: float) -> None:
    """Lines with their names at the right; a name moves up if it would touch the one below."""
    logarithmic = layout["yaxis"].get("type") == "log"
    top = max(highest, *(entry.row.number(f"itl_{name}_ms") or 0 for name in _PERCENTILES))
    end = -math.inf  # in pixels from the bottom, of the name below
    for name in _PERCENTILES:
        value = entry.row.number(f"itl_{name}_ms")
        if value is None or value <= 0:
            continue
        rule(layout, value, name)
        label = layout["annotations"][-1]
        if logarithmic:  # Plotly takes an annotation's place on such an axis as the exponent
            label["y"] = short(math.log10(value))
            decades = max(math.log10(top) - math.log10(layout["yaxis"]["tickvals"][0]), 1)
            place = _PLOT_PIXELS * (1 - (math.log10(top) - math.log10(value)) / decades)
        else:
            place = _PLOT_PIXELS * value / top
        end = max(place, end + _NAME_PIXELS)
        if end > place:
            label["yshift"] = round(end - place)
