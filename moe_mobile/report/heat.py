# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The chart of a device's heat while its rows were measured, all on one clock.

Rows share a device, and what one heated up the next one met; a chart for each would hide that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from moe_mobile.base.json_field import Json
from moe_mobile.base.text import digits
from moe_mobile.bench.row import finite, pick
from moe_mobile.device.state import THERMAL_STATUSES
from moe_mobile.report.entry import Entry
from moe_mobile.report.figure import (
    Figure,
    Key,
    band,
    plain,
    points,
    rule,
    short,
    time_layout,
    time_line,
)
from moe_mobile.report.settings import device_name
from moe_mobile.report.timeline import Span, spans

_LINES = (
    ("cpu_c", "CPU", "solid", "@muted"),
    ("skin_c", "skin", "solid", "@ink"),
    ("battery_c", "battery", "dot", "@muted"),
)
_PAUSE_S = 900
"""A longer pause than any gate makes begins another chart."""
_MARKED = 150
"""Readings of one line that are marked; more would hide it."""


@dataclasses.dataclass(frozen=True)
class _Turn:
    """A repetition: when it began on the device's clock, in seconds."""

    start: float
    number: int
    span: Span
    entry: Entry

    @property
    def end(self) -> float:
        return self.start + self.span.length


def heat(entries: Sequence[Entry]) -> list[tuple[str, Figure]]:
    """Temperatures, thermal status, repetitions and waiting: a named chart per device and session.

    Rows of older versions have no times, and get a chart each.
    """
    clocked: dict[str, list[_Turn]] = {}
    sessions: list[tuple[str, list[_Turn]]] = []
    for entry in entries:
        turns = [
            _Turn(span.clock if span.clock is not None else span.start, number, span, entry)
            for number, span in enumerate(spans(entry), 1)
        ]
        if turns and all(turn.span.clock is not None for turn in turns):
            clocked.setdefault(entry.configuration.settings["device"], []).extend(turns)
        elif turns:
            sessions.append((entry.label_with_test, turns))
    for turns in clocked.values():
        parts = _sessions(sorted(turns, key=lambda turn: turn.start))
        for part in parts:
            name = device_name(part[0].entry.row)
            several = len(parts) > 1 or len(clocked) > 1
            if several:
                began = part[0].span.run["started_at"][:19].replace("T", " ")
                serial = part[0].entry.row.text("device", "serial")
                name += (f" · {serial}" if serial else "") + f", from {began} UTC"
            sessions.append((name, part))
    made = [(name, _chart(name, turns)) for name, turns in sessions]
    return [(name, figure) for name, figure in made if figure is not None]


def _sessions(turns: Sequence[_Turn]) -> list[list[_Turn]]:
    parts: list[list[_Turn]] = []
    for turn in turns:
        if not parts or turn.start - turn.span.waited - parts[-1][-1].end > _PAUSE_S:
            parts.append([])
        parts[-1].append(turn)
    return parts


def _chart(name: str, turns: Sequence[_Turn]) -> Figure | None:
    zero = min(turn.start - turn.span.waited for turn in turns)
    long = turns[-1].end - zero > 600
    unit, scale = ("minutes", 60.0) if long else ("seconds", 1.0)
    layout = time_layout(f"{unit} since the first repetition", "°C", 400)
    del layout["yaxis"]["rangemode"]
    lines = {key: _line(title, dash, colour) for key, title, dash, colour in _LINES}
    status = _line("thermal status", "solid", "@alert") | {"yaxis": "y2"}
    status["line"]["shape"] = "hv"
    status["hovertemplate"] = "thermal status %{y} at %{x:,.4~r}<extra></extra>"
    waited = False
    for turn in turns:
        for offset, state in _readings(turn.span):
            x = short((turn.start - zero + offset) / scale)
            for key, line in (*lines.items(), ("thermal_status", status)):
                value = finite(pick(state, key))
                if value is not None:
                    line["x"].append(x)
                    line["y"].append(short(value))
        start, end = (turn.start - zero) / scale, (turn.end - zero) / scale
        band(layout, start, end, colour=turn.entry.colour, opacity=0.22)
        if turn.span.waited >= 1:
            band(layout, start - turn.span.waited / scale, start, colour="@waiting")
            waited = True
    data = [line for line in lines.values() if line["y"]]
    if not data:
        return None
    for line in data:
        if len(line["x"]) <= _MARKED:
            line |= {"mode": "lines+markers", "marker": {"size": 4}}
    data.append(_lane(turns, zero, scale))
    layout["yaxis"]["domain"] = [0.3, 0.92]
    layout["yaxis3"] = {"domain": [0.94, 1], "range": [0, 1], "visible": False, "fixedrange": True}
    if status["y"]:
        data.append(status)
        _status_axis(layout, max(int(y) for y in status["y"]))
    else:
        layout["yaxis"]["domain"] = [0, 0.92]
    limits = {turn.entry.row.number("regime", "gate", "limit_c") for turn in turns} - {None}
    for limit in limits:
        if limit is not None:
            rule(layout, limit, "gate", "@ink", "dash")
    keys = [
        Key(colour, title, "dotted" if dash == "dot" else "line")
        for key, title, dash, colour in _LINES
        if lines[key]["y"]
    ]
    if status["y"]:
        keys.append(Key("@alert", "thermal status", "line"))
    keys.append(Key("@muted", "a repetition, coloured as its row; point at it for more", "dot"))
    if waited:
        keys.append(Key("@waiting", "waiting for a cooler device"))
    return Figure("heat", f"Temperatures over time: {name}", data, layout, keys)


def _readings(span: Span) -> list[tuple[float, Any]]:
    inside = [(sample["t_ms"] / 1e3, sample) for sample in span.samples]
    return [(0.0, pick(span.run, "entry")), *inside, (span.length, pick(span.run, "exit"))]


def _status_axis(layout: Json, highest: int) -> None:
    top = min(max(highest, 1), len(THERMAL_STATUSES) - 1)
    # Names of all seven would overlap.
    shown = range(0, top + 1, 2 if top > 3 else 1)
    layout["xaxis"]["anchor"] = "y2"
    layout["yaxis2"] = {
        "domain": [0, 0.22],
        "range": [-0.25, top + 0.25],
        "tickvals": list(shown),
        "ticktext": [THERMAL_STATUSES[level] for level in shown],
        "tickfont": {"size": 11},
        "fixedrange": True,
        "zeroline": False,
    }
    layout["margin"]["l"] = 66


def _lane(turns: Sequence[_Turn], zero: float, scale: float) -> Json:
    """A dot above each repetition that says which it is."""
    texts = []
    for turn in turns:
        span = turn.span
        text = f"<b>{plain(turn.entry.label_with_test)}</b><br>repetition {turn.number}"
        text += f", {digits(span.length, 3)} s"
        if span.waited:
            text += f"<br>waited {digits(span.waited, 3)} s"
            text += " in vain" if span.run.get("gate") == "timed_out" else ""
        texts.append(text)
    x = [((turn.start + turn.end) / 2 - zero) / scale for turn in turns]
    marker = {"color": [turn.entry.colour for turn in turns], "size": 8}
    return points(x, [0.5] * len(turns), texts, marker=marker, yaxis="y3")


def _line(name: str, dash: str, colour: str) -> Json:
    return time_line(name, dash, colour, f"{name} %{{y:,.4~r}} °C at %{{x:,.4~r}}")
