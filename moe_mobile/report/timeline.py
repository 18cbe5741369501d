# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Charts of what a device did while one row was measured: memory and heat over time."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from moe_mobile.device.state import THERMAL_STATUSES
from moe_mobile.report.entry import Entry
from moe_mobile.report.figure import Figure, band, plain, rule, short, time_layout
from moe_mobile.report.rows import finite, items, pick

__all__ = ["memory_over_time", "spans", "thermal"]

Json = dict[str, Any]

_MIB = 1 << 20
_MAX_SAMPLES = 1500
_MEMORY = (
    ("pss", "PSS", "solid"),
    ("rss_anon", "RssAnon", "dash"),
    ("rss_file", "RssFile", "dashdot"),
    ("swap", "swap", "dot"),
)
_HEAT = (("skin_c", "skin", "solid"), ("cpu_c", "CPU", "dash"), ("battery_c", "battery", "dot"))


@dataclasses.dataclass(frozen=True)
class Span:
    """A repetition in seconds since the first one's begin; `samples` counts from `start`."""

    start: float
    length: float
    waited: float
    run: Json
    samples: list[Json]


def spans(entry: Entry) -> list[Span]:
    """The repetitions in time, by their clock where every one is recorded, else in a row."""
    lengths = entry.row.get("samples_ns")
    known = [finite(value) for value in lengths] if isinstance(lengths, list) else []
    starts = [_seconds(run.get("started_at")) for run in entry.row.runs]
    clocked = all(start is not None for start in starts)
    found: list[Span] = []
    position = 0.0
    for index, run in enumerate(entry.row.runs):
        samples = [s for s in items(run.get("samples")) if finite(s.get("t_ms")) is not None]
        length = (known[index] or 0.0) / 1e9 if index < len(known) else 0.0
        length = max([length, *(sample["t_ms"] / 1e3 for sample in samples)])
        waited = finite(run.get("waited_s")) or 0.0
        first, own = starts[0], starts[index]
        if clocked and first is not None and own is not None:
            position = max(own - first, position)
        elif index:
            position += waited
        step = max(len(samples) * len(entry.row.runs) // _MAX_SAMPLES, 1)
        found.append(Span(position, length, waited, run, samples[::step]))
        position += length
    return found


def memory_over_time(entry: Entry) -> Figure | None:
    """PSS, RssAnon, RssFile, swap and major faults, repetitions in a row without the waiting."""
    found = spans(entry)
    if not any(span.samples for span in found):
        return None
    layout = time_layout("seconds of measuring, repetitions in a row", "MiB", 340)
    traces: dict[str, Json] = {
        key: _line(name, dash, entry.colour if key == "pss" else "@muted", "MiB")
        for key, name, dash in _MEMORY
    }
    faults = _line("major faults", "solid", "@alert", "faults so far") | {"yaxis": "y2"}
    position = 0.0
    for index, span in enumerate(found):
        for sample in span.samples:
            x = short(position + sample["t_ms"] / 1e3)
            for key, trace in traces.items():
                _add(trace, x, sample.get(key), lambda value: value / _MIB)
            _add(faults, x, sample.get("major_faults"), float)
        for trace in (*traces.values(), faults):
            _add(trace, short(position + span.length), None, float)  # a gap
        if index % 2 == 0:
            band(layout, position, position + span.length, "")
        position += span.length
    data = [trace for trace in traces.values() if any(y is not None for y in trace["y"])]
    if any(y for y in faults["y"] if y is not None):
        data.append(faults)
        layout["yaxis"]["domain"] = [0.3, 1]
        layout["yaxis2"] = {
            "domain": [0, 0.18],
            "title": {"text": "faults"},
            "rangemode": "tozero",
            "fixedrange": True,
            "nticks": 3,
        }
    budget = entry.row.number("plan", "total_bytes")
    if budget is not None:
        rule(layout, budget / _MIB, "plan", "@ink", "dash")
    return Figure("memory-time", f"Memory over time: {entry.label_with_test}", data, layout)


def thermal(entry: Entry) -> Figure | None:
    """Temperatures and thermal status by the clock, with repetitions and waiting."""
    found = spans(entry)
    layout = time_layout("seconds since the first repetition", "°C", 360)
    del layout["yaxis"]["rangemode"]
    traces = {key: _line(name, dash, "@ink", "°C") for key, name, dash in _HEAT}
    colours = (entry.colour, "@ink", "@muted")
    for trace, colour in zip(traces.values(), colours, strict=True):
        trace["line"]["color"] = colour
    status = _line("thermal status", "solid", "@alert", "")
    status |= {"yaxis": "y2", "line": {"color": "@alert", "width": 2, "shape": "hv"}}
    for index, span in enumerate(found):
        points = [(0.0, pick(span.run, "entry"))]
        points += [(sample["t_ms"] / 1e3, sample) for sample in span.samples]
        points += [(span.length, pick(span.run, "exit"))]
        for offset, state in points:
            for key, trace in traces.items():
                _add(trace, short(span.start + offset), pick(state, key), float)
            _add(status, short(span.start + offset), pick(state, "thermal_status"), float)
        band(layout, span.start, span.start + span.length, str(index + 1))
        if span.waited >= 1:
            note = f"waited {span.waited:.0f} s" if len(found) <= 4 else ""
            band(layout, span.start - span.waited, span.start, note, "@waiting")
    data = [trace for trace in traces.values() if any(y is not None for y in trace["y"])]
    if not data:
        return None
    for trace in data:
        trace["connectgaps"] = True
    levels = [int(y) for y in status["y"] if y is not None]
    if levels:
        top = min(max(*levels, 1), len(THERMAL_STATUSES) - 1)
        data.append(status)
        layout["yaxis"]["domain"] = [0.32, 1]
        layout["yaxis2"] = {
            "domain": [0, 0.2],
            "range": [-0.25, top + 0.25],
            "tickvals": list(range(top + 1)),
            "ticktext": list(THERMAL_STATUSES[: top + 1]),
            "fixedrange": True,
            "zeroline": False,
        }
        layout["margin"]["l"] = 66
    limit = entry.row.number("regime", "gate", "limit_c")
    if limit is not None:
        rule(layout, limit, "gate", "@ink", "dash")
    return Figure("thermal", f"Temperature over time: {entry.label_with_test}", data, layout)


def _line(name: str, dash: str, colour: str, unit: str) -> Json:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [],
        "y": [],
        "line": {"color": colour, "dash": dash, "width": 2},
        "hovertemplate": f"{plain(name)} %{{y:.4g}} {unit} at %{{x:.4g}} s<extra></extra>",
    }


def _add(trace: Json, x: float, value: Any, convert: Callable[[float], float]) -> None:
    number = finite(value)
    trace["x"].append(x)
    trace["y"].append(None if number is None else short(convert(number)))


def _seconds(text: Any) -> float | None:
    """Seconds of an ISO 8601 time, on any scale: only differences are used."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    return time.timestamp()
