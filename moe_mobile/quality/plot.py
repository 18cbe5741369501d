# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What routings cost against what they save. Needs the optional matplotlib."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moe_mobile.quality.score import Quality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_quality"]

_COLORS = ("#4c72b0", "#c44e52", "#55a868", "#8172b3", "#ccb974", "#64b5cd", "#937860", "#7f7f7f")
_MARKS = {"exact": "o", "max-rank": "s", "cumulative": "^", "cache-prior": "D"}
_DROPPING = "X"


def draw_quality(scores: Sequence[Quality], name: str) -> Figure:
    """Perplexity over loads per token-layer: a colour per capacity, a mark per method.

    Args:
        scores: of one text, an exact one among them, whose perplexity is a line. Bars are 95 %
            intervals of the change from it.
        name: of the model, for the title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    capacities = sorted({score.capacity for score in scores})
    exact = next((score for score in scores if not score.lossy), scores[0])
    for score in scores:
        if math.isinf(score.perplexity):
            continue
        color = _COLORS[capacities.index(score.capacity) % len(_COLORS)]
        error = score.change_error(exact) or 0.0
        axes.errorbar(
            [score.loads_per_token_layer],
            [score.perplexity],
            [exact.perplexity * error],
            marker=_MARKS.get(_method(score), _DROPPING),
            color=color,
            markersize=7,
            elinewidth=0.7,
        )
        axes.annotate(
            score.routing,
            (score.loads_per_token_layer, score.perplexity),
            textcoords="offset points",
            xytext=(7, 4),
            fontsize=7,
            color=color,
        )
    axes.axhline(exact.perplexity, color="black", linewidth=0.6, linestyle="dotted")
    axes.set_xlabel("loads per token and layer")
    axes.set_ylabel("perplexity, token by token")
    # Room for names on the right.
    axes.set_xlim(0, 1.2 * max(score.loads_per_token_layer for score in scores) or 1)
    axes.margins(y=0.12)
    axes.grid(linewidth=0.3)
    axes.legend(handles=_keys(scores, capacities), fontsize=8, loc="best")
    axes.set_title(
        f"{name}: {scores[0].predictions} tokens predicted, pool: {scores[0].pool}, "
        f"eviction: {scores[0].eviction}",
        fontsize=10,
    )
    return figure


def _method(score: Quality) -> str:
    return "drop-cold" if "+drop-cold" in score.routing else re.split("[:,]", score.routing)[0]


def _keys(scores: Sequence[Quality], capacities: Sequence[int]) -> list[object]:
    from matplotlib.lines import Line2D

    experts = scores[0].experts
    keys: list[object] = [
        Line2D([], [], color=_COLORS[index % len(_COLORS)], label=f"{size} of {experts} cached")
        for index, size in enumerate(capacities)
    ]
    used: dict[str, bool] = {}
    for score in scores:
        used[_method(score)] = used.get(_method(score), False) or score.lossy
    keys += [
        Line2D(
            [],
            [],
            color="gray",
            linestyle="",
            marker=_MARKS.get(method, _DROPPING),
            label=method + " (lossy)" * lossy,
        )
        for method, lossy in used.items()
    ]
    return keys
