# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures as Plotly reads them: a dictionary of traces and a layout, colours by name.

A colour begins with `@`; the page's script puts in the one of the theme, so that one figure suits
light, dark and paper: `@c0` to `@c7` are configurations, `@ink`, `@muted`, `@grid`, `@paper`,
`@alert` say themselves, `@part-…` are the parts of a token's time.
"""

from __future__ import annotations

import dataclasses
import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from moe_mobile.base.json_field import Json
from moe_mobile.base.text import digits

_LINE = 16  # pixels of a line of text
_BAR = 13
_GAP = 17
_CHARACTERS = 46  # of a label and its value, so that both fit a phone's width
_SHORTEST = 28  # the longest names of models are not broken


@dataclasses.dataclass(frozen=True)
class Key:
    """An entry of a legend: what a colour or a mark means.

    Legends are text of the page: Plotly's would take room from the bars on a narrow screen.
    `shape` is a class of the style sheet: square, hatched, dot, ring, diamond, mark,
    line, dash, dotted, scale.
    """

    colour: str
    name: str
    shape: str = "square"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart of the page. `alt` says in words what a reader who cannot see it misses.

    Of `variants` the reader picks one: a name, and the values of each heat map in `data`, which
    have so many `columns`, one of 64 levels a character.
    """

    name: str
    alt: str
    data: list[Json]
    layout: Json
    keys: Sequence[Key] = ()
    variants: Sequence[tuple[str, Sequence[str]]] = ()
    columns: int = 0

    def as_dict(self) -> Json:
        """What the page's script draws."""
        figure: Json = {"data": self.data, "layout": self.layout}
        if self.variants:
            levels = [values for _, values in self.variants]
            figure |= {"variants": levels, "columns": self.columns}
        return figure


@dataclasses.dataclass(frozen=True)
class Segment:
    """A piece of a bar; hatched if it is a loss."""

    length: float
    colour: str
    name: str
    hatched: bool = False


@dataclasses.dataclass(frozen=True)
class Bar:
    """A labelled bar: its value as text, pieces, one deviation, single measurements, a mark."""

    label: str
    value: str
    segments: list[Segment]
    deviation: float | None = None
    dots: Sequence[float] = ()
    mark: float | None = None
    title: str = ""


def plain(text: str) -> str:
    """Text of others for Plotly, which reads a few tags, links among them."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return html.escape(printable, quote=False)


def short(value: float) -> float:
    """Five significant digits: no chart shows more, and the page is half as large."""
    return float(f"{value:.5g}")


def listing(labels: Sequence[tuple[str, str]], unit: str) -> tuple[Json, list[float]]:
    """A layout of lines, each with a label and a value above it, legible at any width.

    A value may have several lines. The second result says at which y to draw each line's marks;
    y counts pixels downwards.
    """
    annotations: list[Json] = []
    centres: list[float] = []
    top = 0.0
    for label, value in labels:
        values = value.split("\n")
        room = max(_CHARACTERS - max(map(len, values)), _SHORTEST)
        lines = textwrap.wrap(label, room, break_on_hyphens=False) or [""]
        annotations.append(_label("<br>".join(plain(line) for line in lines), 0, top))
        annotations.append(_label("<br>".join(f"<b>{plain(line)}</b>" for line in values), 1, top))
        top += _LINE * max(len(lines), len(values)) + 2
        centres.append(top + _BAR / 2)
        top += _BAR + _GAP
    layout: Json = {
        "height": round(top + 40),
        "margin": {"l": 2, "r": 8, "t": 4, "b": 36},
        "xaxis": {"title": {"text": plain(unit)}, "fixedrange": True},
        "yaxis": {"range": [top - 4, 0], "visible": False, "fixedrange": True},
        "annotations": annotations,
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
    }
    return layout, centres


def logarithmic(axis: Json, low: float, high: float) -> None:
    """Make an axis logarithmic, its ticks labelled in full: Plotly says "5" between 10 and 100."""
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [short(step * 10.0**decade) for decade in decades for step in steps]
    axis |= {"type": "log", "tickvals": ticks, "ticktext": [digits(tick) for tick in ticks]}
    axis.pop("rangemode", None)


def bars(
    name: str,
    alt: str,
    unit: str,
    entries: Sequence[Bar],
    *,
    limit: float = 0,
    keys: Sequence[Key] = (),
) -> Figure:
    """Horizontal bars from zero. The axis ends at `limit`, or where the longest bar does."""
    layout, centres = listing([(entry.label, entry.value) for entry in entries], unit)
    layout["barmode"] = "stack"
    layout["xaxis"]["rangemode"] = "tozero"
    if limit:
        layout["xaxis"]["range"] = [0, limit]
    data = _stacks(entries, centres) + _extras(entries, centres, unit)
    return Figure(name, alt, data, layout, keys)


def _label(text: str, x: int, y: float) -> Json:
    side = "right" if x else "left"
    font = {"color": "@ink", "size": 12}
    return note(
        text, x, y, xref="paper", xanchor=side, yanchor="top", align=side, borderpad=0, font=font
    )


def _stacks(entries: Sequence[Bar], centres: Sequence[float]) -> list[Json]:
    """One trace per place in the stack: Plotly stacks traces, not pieces."""
    traces = []
    for place in range(max((len(entry.segments) for entry in entries), default=0)):
        pairs = zip(entries, centres, strict=True)
        present = [(e, e.segments[place], y) for e, y in pairs if place < len(e.segments)]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "x": [short(segment.length) for _, segment, _ in present],
                "y": [y for _, _, y in present],
                "width": _BAR,
                "marker": {
                    "color": [segment.colour for _, segment, _ in present],
                    "line": {"width": 1, "color": "@paper"},
                    "pattern": {
                        "shape": ["/" if segment.hatched else "" for _, segment, _ in present],
                        "fgcolor": "@paper",
                        "size": 6,
                        "solidity": 0.3,
                    },
                },
                "hovertext": [
                    f"<b>{plain(entry.label)}</b><br>{plain(segment.name)}"
                    + (f"<br>{plain(entry.title)}" if entry.title else "")
                    for entry, segment, _ in present
                ],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )
    return traces


def _extras(entries: Sequence[Bar], centres: Sequence[float], unit: str) -> list[Json]:
    traces: list[Json] = []
    pairs = list(zip(entries, centres, strict=True))
    totals = [sum(segment.length for segment in entry.segments) for entry in entries]
    spread = [
        (total, entry.deviation, y)
        for (entry, y), total in zip(pairs, totals, strict=True)
        if entry.deviation
    ]
    if spread:
        x, deviations, y = zip(*spread, strict=True)
        look = {"color": "@ink", "thickness": 1.6, "width": 5}
        error = {"type": "data", "array": list(map(short, deviations)), **look}
        traces.append(points(x, y, None, marker={"size": 1, "color": "@ink"}, error_x=error))
    dots = [(dot, y + _BAR / 2 + 4) for entry, y in pairs for dot in entry.dots]
    if dots:
        hover = f"one repetition: %{{x:,.5~r}} {plain(unit)}"
        mark = {"size": 4, "color": "@muted", "opacity": 0.75}
        x, y = zip(*dots, strict=True)
        traces.append(points(x, y, hover, marker=mark))
    marks = [(entry.mark, y) for entry, y in pairs if entry.mark is not None]
    if marks:
        hover = f"planned: %{{x:,.5~r}} {plain(unit)}"
        line = {"width": 2.5, "color": "@ink"}
        mark = {"symbol": "line-ns", "size": _BAR + 6, "line": line}
        x, y = zip(*marks, strict=True)
        traces.append(points(x, y, hover, marker=mark))
    return traces


def points(
    x: Sequence[float], y: Sequence[float], hover: str | Sequence[str] | None, **more: Any
) -> Json:
    """Marks. `hover` is said of each: texts, or one with plotly's placeholders; None: nothing."""
    shortened = [value if isinstance(value, int) else short(value) for value in x]
    trace: Json = {"type": "scatter", "mode": "markers", "x": shortened, "y": list(y)}
    if hover is None:
        trace["hoverinfo"] = "skip"
    elif isinstance(hover, str):
        trace["hovertemplate"] = f"{hover}<extra></extra>"
    else:
        trace |= {"hovertext": list(hover), "hovertemplate": "%{hovertext}<extra></extra>"}
    return trace | more


def note(text: str, x: float, y: float, **more: Any) -> Json:
    """A text at a place, without an arrow."""
    return {"text": text, "x": x, "y": y, "showarrow": False, **more}


def upright(x: float, colour: str, width: float, **more: Any) -> Json:
    """The shape of a vertical line through the whole chart."""
    line = {"color": colour, "width": width, **more}
    return {"type": "line", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}


def time_layout(title: str, unit: str, height: int = 320) -> Json:
    """A chart with something that goes on along x, which can be zoomed."""
    return {
        "height": height,
        "margin": {"l": 52, "r": 44, "t": 24, "b": 40},
        "xaxis": {"title": {"text": title}, "zeroline": False},
        "yaxis": {"title": {"text": unit}, "rangemode": "tozero", "fixedrange": True},
        "showlegend": False,
        "dragmode": "zoom",
        "hovermode": "closest",
        "shapes": [],
        "annotations": [],
    }


def time_line(name: str, dash: str, colour: str, hover: str) -> Json:
    """A line without points yet; ``hover``: what is said of one, with plotly's placeholders."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [],
        "y": [],
        "line": {"color": colour, "dash": dash, "width": 2},
        "hovertemplate": f"{hover}<extra></extra>",
    }


def rule(layout: Json, y: float, text: str, colour: str = "@muted", dash: str = "dot") -> None:
    """Add a horizontal line, named at its right end."""
    layout["shapes"].append(
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": short(y),
            "y1": short(y),
            "line": {"color": colour, "width": 1.4, "dash": dash},
        }
    )
    font = {"size": 11, "color": colour}
    layout["annotations"].append(
        note(plain(text), 1.005, short(y), xref="paper", xanchor="left", font=font)
    )


def band(
    layout: Json, start: float, end: float, *, colour: str = "@band", opacity: float = 1
) -> None:
    """Shade a span of x behind the data."""
    layout["shapes"].append(
        {
            "type": "rect",
            "yref": "paper",
            "layer": "below",
            "x0": short(start),
            "x1": short(end),
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": colour,
            "opacity": opacity,
        }
    )
