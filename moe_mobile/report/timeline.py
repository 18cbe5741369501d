# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a device did while one row was measured: its repetitions in time, and memory over time."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from moe_mobile.base.json_field import Json
from moe_mobile.bench.row import finite, objects
from moe_mobile.report.entry import Entry
from moe_mobile.report.figure import Figure, Key, band, plain, rule, short, time_layout, time_line

_MIB = 1 << 20
_MAX_SAMPLES = 1500
FEWEST_SAMPLES = 3
"""Of a repetition: fewer show no course of time."""
_MARKED = 150
_MEMORY = (
    ("pss", "PSS", "solid"),
    ("rss_anon", "RssAnon", "dash"),
    ("rss_file", "RssFile", "dot"),
    ("swap", "swap", "solid"),
)
_SHAPES = {"solid": "line", "dash": "dash", "dot": "dotted"}


@dataclasses.dataclass(frozen=True)
class Span:
    """A repetition in seconds since the first one's begin; `samples` counts from `start`.

    `clock` is its begin in seconds since 1970, None if any of the row's is not recorded.
    """

    start: float
    length: float
    waited: float
    run: Json
    samples: list[Json]
    clock: float | None


def spans(entry: Entry) -> list[Span]:
    """The repetitions in time, by their clock if every one is recorded, else in a row."""
    known = [finite(value) for value in entry.row.items("samples_ns")]
    starts = [_seconds(run.get("started_at")) for run in entry.row.records]
    clocked = all(start is not None for start in starts)
    found: list[Span] = []
    position = 0.0
    for index, run in enumerate(entry.row.records):
        samples = [s for s in objects(run.get("samples")) if finite(s.get("t_ms")) is not None]
        length = (known[index] or 0.0) / 1e9 if index < len(known) else 0.0
        length = max([length, *(sample["t_ms"] / 1e3 for sample in samples)])
        waited = finite(run.get("waited_s")) or 0.0
        first, own = starts[0], starts[index]
        if clocked and first is not None and own is not None:
            position = max(own - first, position)
        elif index:
            position += waited
        step = max(len(samples) * len(entry.row.records) // _MAX_SAMPLES, 1)
        clock = first + position if clocked and first is not None else None
        found.append(Span(position, length, waited, run, samples[::step], clock))
        position += length
    return found


def too_few_samples(entry: Entry) -> bool:
    """Whether a row was sampled, but too rarely for a chart of memory over time."""
    most = max((len(span.samples) for span in spans(entry)), default=0)
    return 0 < most < FEWEST_SAMPLES


def memory_over_time(entry: Entry) -> Figure | None:
    """PSS, RssAnon, RssFile, swap and major faults, repetitions in a row without the waiting."""
    found = spans(entry)
    if not any(len(span.samples) >= FEWEST_SAMPLES for span in found):
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
            x = position + sample["t_ms"] / 1e3
            for key, trace in traces.items():
                value = finite(sample.get(key))
                _add(trace, x, None if value is None else value / _MIB)
            _add(faults, x, finite(sample.get("major_faults")))
        for trace in (*traces.values(), faults):
            _add(trace, position + span.length, None)  # a gap between repetitions
        if index % 2 == 0:
            band(layout, position, position + span.length)
        position += span.length
    data = [trace for trace in traces.values() if any(y is not None for y in trace["y"])]
    if any(y for y in faults["y"] if y is not None):
        data.append(faults)
        layout["yaxis"]["domain"] = [0.3, 1]
        layout["xaxis"]["anchor"] = "y2"
        layout["yaxis2"] = {
            "domain": [0, 0.18],
            "title": {"text": "faults"},
            "rangemode": "tozero",
            "fixedrange": True,
            "nticks": 3,
        }
    for trace in data:
        if len(trace["x"]) <= _MARKED:
            trace |= {"mode": "lines+markers", "marker": {"size": 4}}
    budget = entry.row.number("plan", "total_bytes")
    if budget is not None:
        rule(layout, budget / _MIB, "plan", "@ink", "dash")
    keys = [Key(t["line"]["color"], t["name"], _SHAPES[t["line"]["dash"]]) for t in data]
    alt = f"Memory over time: {entry.label_with_test}"
    return Figure("memory-time", alt, data, layout, keys)


def _line(name: str, dash: str, colour: str, unit: str) -> Json:
    return time_line(name, dash, colour, f"{plain(name)} %{{y:,.4~r}} {unit} at %{{x:,.4~r}} s")


def _add(trace: Json, x: float, value: float | None) -> None:
    trace["x"].append(short(x))
    trace["y"].append(None if value is None else short(value))


def _seconds(text: Any) -> float | None:
    """Seconds of an ISO 8601 time since 1970."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.datetime.fromisoformat(text)
        if time.tzinfo is None:
            time = time.replace(tzinfo=datetime.UTC)
        return time.timestamp()
    except (ValueError, OverflowError):
        return None
