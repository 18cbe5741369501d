# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A chart of what routings cost against what they save."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from moe_mobile.base.routings import labelled
from moe_mobile.quality.score import Quality

_COLORS = ("#4c72b0", "#c44e52", "#55a868", "#8172b3", "#ccb974", "#64b5cd", "#937860", "#7f7f7f")
_MARKS = {"exact": "circle", "max-rank": "square", "cumulative": "triangle-up"}
_MARKS |= {"cache-prior": "diamond", "drop-cold": "x"}


def draw_quality(scores: Sequence[Quality], name: str) -> dict[str, Any]:
    """A Plotly figure of perplexity over loads: a colour per capacity, a mark per method.

    Args:
        scores: of one text, an exact one among them, whose perplexity is a line. Bars are 95 %
            intervals of the change from it.
        name: of the model, for the title.
    """
    capacities = sorted({score.capacity for score in scores})
    exact = next((score for score in scores if not score.lossy), scores[0])
    groups: dict[tuple[int, str], list[Quality]] = {}
    for score in scores:
        if not math.isinf(score.perplexity):
            groups.setdefault((score.capacity, _method(score)), []).append(score)
    data = [
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": f"{capacity} of {exact.experts} cached: {method}"
            + " (lossy)" * any(score.lossy for score in group),
            "x": [score.loads_per_token_layer for score in group],
            "y": [score.perplexity for score in group],
            "error_y": {
                "type": "data",
                "array": [exact.perplexity * (score.change_error(exact) or 0) for score in group],
                "thickness": 1,
            },
            "text": [score.label for score in group],
            "textposition": "middle right",
            "textfont": {"size": 10},
            "marker": {
                "symbol": _MARKS.get(method.partition(",")[0], "star"),
                "size": 10,
                "color": _COLORS[capacities.index(capacity) % len(_COLORS)],
            },
        }
        for (capacity, method), group in sorted(groups.items())
    ]
    # Room for names on the right.
    most = 1.3 * max(score.loads_per_token_layer for score in scores) or 1
    title = (
        f"{name}: {scores[0].predictions} tokens predicted, pool: {scores[0].pool}, "
        f"eviction: {scores[0].eviction}"
    )
    layout = {
        "height": 560,
        "title": {"text": title, "font": {"size": 14}},
        "xaxis": {"title": {"text": "loads per token and layer"}, "range": [0, most]},
        "yaxis": {"title": {"text": "perplexity, token by token"}},
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": exact.perplexity,
                "y1": exact.perplexity,
                "line": {"width": 1, "dash": "dot"},
            }
        ],
    }
    return {"data": data, "layout": layout}


def _method(score: Quality) -> str:
    drops = "+drop-cold" in score.routing
    method = "drop-cold" if drops else re.split("[:,]", score.routing)[0]
    return labelled(method, score.expert_precision)
