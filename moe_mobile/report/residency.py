# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Charts of what a cache held: experts by layer, by token, and how long each stayed."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.json_field import Json
from moe_mobile.base.statistics import percentile
from moe_mobile.report.figure import Figure, Key, note, plain, short
from moe_mobile.tune.residency import Residency

_SCALE = [[0, "@paper"], [1, "@c0"]]
_KEY = Key("@c0", "cached after 0 to 100 % of the tokens", "scale")
_LEVELS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
"""A character says one of 64 shares: a page's script turns them back."""
_CELLS = 400_000
_MOST_COLUMNS, _FEWEST_COLUMNS = 160, 40
_FIRST_TOKENS = 1024
_GAP = 26


def shares(views: Sequence[Residency], layers: Sequence[int]) -> Figure:
    """Of the tokens, those after which each expert of each layer was cached; a panel for a view."""
    experts = views[0].cached.shape[2]
    data = [
        _heat(view.share.round(3).tolist(), f"layer %{{y}}, expert %{{x}}: {_PERCENT}", place)
        | {"y": [str(number) for number in layers]}
        for place, view in enumerate(views)
    ]
    height = max(4, min(18, 420 // len(layers))) * len(layers)
    layout = _panels([view.marked for view in views], height, "expert", "layer")
    layout["xaxis"]["range"] = [-0.5, experts - 0.5]
    for place in range(len(views)):
        layout[_axis("y", place)] |= {"type": "category", "autorange": "reversed"}
    alt = "Share of the tokens after which each expert was cached, by layer. " + "; ".join(
        f"{view.marked}: {100 * view.share.mean():.0f} % on average, "
        f"{(view.share > 0.9).mean() * 100:.0f} % of the experts nearly always"
        for view in views
    )
    return Figure("shares", alt, data, layout, (_KEY,))


def over_time(views: Sequence[Residency], layers: Sequence[int]) -> Figure:
    """Experts over the tokens of the first sequence, for a layer that the reader picks."""
    ends = [*views[0].sequences[1:], views[0].tokens]
    tokens = min(ends[0], _FIRST_TOKENS)
    experts = views[0].cached.shape[2]
    fitting = _CELLS // (len(views) * len(layers) * experts)
    columns = min(tokens, _MOST_COLUMNS, max(_FEWEST_COLUMNS, fitting))
    step = tokens / columns
    variants = [
        (f"layer {number}", [_encoded(view.cached[:tokens, index], columns) for view in views])
        for index, number in enumerate(layers)
    ]
    data = [
        _heat([], f"token %{{x:.0f}}, expert %{{y}}: {_PERCENT}", place)
        | {"x0": short(step / 2), "dx": short(step)}
        for place in range(len(views))
    ]
    height = max(3, min(9, 300 // experts)) * experts
    layout = _panels([view.marked for view in views], height, "token", "expert")
    layout["xaxis"]["range"] = [0, tokens]
    for place in range(len(views)):
        layout[_axis("y", place)]["range"] = [experts - 0.5, -0.5]
    alt = f"Which experts of a layer were cached over the first {tokens} tokens"
    return Figure("over-time", alt, data, layout, (_KEY,), tuple(variants), columns)


def lifetimes(views: Sequence[Residency]) -> Figure | None:
    """How long experts stayed, doubling from bar to bar; None if no expert left."""
    known = [view for view in views if view.lifetimes]
    if not known:
        return None
    longest = max(max(view.lifetimes) for view in known)
    edges = [2**power for power in range(longest.bit_length() + 1)]
    names = [_span(low, high - 1) for low, high in itertools.pairwise(edges)]
    colours = ["@muted", "@c0"] if len(views) > 1 else ["@c0"]
    data, keys = [], []
    for view, colour in zip(views, colours, strict=False):
        if not view.lifetimes:
            continue
        name = view.marked
        counts, _ = np.histogram(np.maximum(view.lifetimes, 1), bins=edges)
        part = 100 * counts / len(view.lifetimes)
        data.append(
            {
                "type": "bar",
                "x": names,
                "y": [short(value) for value in part.tolist()],
                "marker": {"color": colour},
                "hovertemplate": f"<b>{plain(name)}</b><br>%{{x}} tokens: %{{y:.1f}} % of "
                f"{len(view.lifetimes):,} evictions<extra></extra>",
            }
        )
        values = list(map(float, view.lifetimes))
        text = (
            f"{name}: mean {fmean(values):.1f} tokens, median {percentile(values, 50):.0f}, "
            f"of {len(values):,} evictions"
        )
        keys.append(Key(colour, text))
    layout: Json = {
        "height": 300,
        "margin": {"l": 48, "r": 8, "t": 8, "b": 44},
        "xaxis": {"title": {"text": "tokens from load to eviction"}, "type": "category",
                  "fixedrange": True},
        "yaxis": {"title": {"text": "% of evictions"}, "fixedrange": True},
        "bargap": 0.25,
        "barmode": "group",
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
    }  # fmt: skip
    alt = "How long experts stayed in the cache. " + "; ".join(key.name for key in keys)
    return Figure("lifetimes", alt, data, layout, keys)


_PERCENT = "%{z:.0%}<extra></extra>"


def _axis(name: str, place: int) -> str:
    return f"{name}axis{place + 1 if place else ''}"


def _heat(z: list[list[float]], hover: str, place: int) -> Json:
    return {
        "type": "heatmap",
        "z": z,
        "zmin": 0,
        "zmax": 1,
        "colorscale": _SCALE,
        "showscale": False,
        "xaxis": "x",
        "yaxis": f"y{place + 1 if place else ''}",
        "hovertemplate": hover,
    }


def _panels(titles: Sequence[str], height: int, across: str, down: str) -> Json:
    """Panels of equal height below each other, each under its title, over one x."""
    count = len(titles)
    inner = count * (height + _GAP)
    layout: Json = {
        "height": inner + 44,
        "margin": {"l": 46, "r": 8, "t": 0, "b": 44},
        "xaxis": {
            "title": {"text": across},
            "anchor": "y" if count == 1 else f"y{count}",
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "constrain": "domain",
        },
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "annotations": [],
    }
    for place, title in enumerate(titles):
        top = inner - place * (height + _GAP) - _GAP
        layout[_axis("y", place)] = {
            "domain": [(top - height) / inner, top / inner],
            "title": {"text": down, "standoff": 4},
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "showline": True,
            "mirror": True,
        }
        place_of = {"xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "bottom"}
        font = {"color": "@ink", "size": 12}
        layout["annotations"].append(
            note(f"<b>{plain(title)}</b>", 0, top / inner, font=font, **place_of)
        )
    return layout


def _encoded(cached: NDArray[np.bool_], columns: int) -> str:
    """[tokens, experts] as a character for each expert and column, row by row."""
    edges = np.linspace(0, len(cached), columns + 1).round().astype(int)
    sums = np.add.reduceat(cached, edges[:-1], axis=0, dtype=np.float64)
    levels = (sums / np.diff(edges)[:, None] * (len(_LEVELS) - 1)).round().astype(int)
    return "".join(_LEVELS[level] for level in levels.T.ravel().tolist())


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low}-{high}"
