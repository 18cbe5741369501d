# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A chart of where each decoded token's time went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moe_mobile.bench.row import PARTS, Row, parts_of
from moe_mobile.errors import UsageError

_COLORS = ("#4c72b0", "#8172b3", "#55a868", "#ccb974", "#64b5cd", "#bbbbbb", "#c44e52")


def token_parts(result: Row) -> dict[str, list[float]]:
    """Milliseconds of each part by decoded token, all repetitions one after the other."""
    tokens = [t for sample in result.tokens for t in sample if t["phase"] == "decode"]
    of_each = [parts_of([token]) for token in tokens]
    return {name: [parts[name] for parts in of_each] for name in PARTS}


def draw_results(results: Sequence[Row]) -> dict[str, Any]:
    """A Plotly figure with one stacked panel per result that decoded tokens.

    Raises UsageError if none did.
    """
    shown = [result for result in results if result.n_gen]
    if not shown:
        raise UsageError("nothing was decoded, so there is nothing to plot", remedy="Decode tokens")
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "barmode": "stack",
        "bargap": 0,
        "height": 300 * len(shown) + 80,
        "annotations": [],
        "shapes": [],
    }
    height = 1 / len(shown)
    for index, result in enumerate(shown):
        number = str(index + 1) if index else ""
        for (part, values), color in zip(token_parts(result).items(), _COLORS, strict=True):
            data.append(
                {
                    "type": "bar",
                    "name": part,
                    "legendgroup": part,
                    "showlegend": index == 0,
                    "x": list(range(len(values))),
                    "y": values,
                    "marker": {"color": color, "line": {"width": 0}},
                    "xaxis": f"x{number}",
                    "yaxis": f"y{number}",
                    "hovertemplate": f"token %{{x}}: {part} %{{y:,.3~r}} ms<extra></extra>",
                }
            )
        top = 1 - index * height
        layout[f"xaxis{number}"] = {"anchor": f"y{number}"}
        layout[f"yaxis{number}"] = {
            "anchor": f"x{number}",
            "domain": [top - 0.72 * height, top - 0.12 * height],
            "title": {"text": "ms per token"},
        }
        layout["annotations"].append(
            {
                "text": f"{result.model_type}, {result.test.name}, cache {result.config['cache']}, "
                f"{result.config['residency']}: {result.avg_ts:.1f} tokens/s",
                "x": 0,
                "y": top - 0.11 * height,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
        layout["shapes"] += [
            {
                "type": "line",
                "xref": f"x{number}",
                "yref": f"y{number} domain",
                "x0": repetition * result.n_gen - 0.5,
                "x1": repetition * result.n_gen - 0.5,
                "y0": 0,
                "y1": 1,
                "line": {"width": 1},
            }
            for repetition in range(1, len(result.tokens))
        ]
        if index == len(shown) - 1:
            layout[f"xaxis{number}"]["title"] = {"text": "decoded token, repetitions in a row"}
    return {"data": data, "layout": layout}
