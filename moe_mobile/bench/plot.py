# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A picture of where each decoded token's time went. Needs the optional matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moe_mobile.bench.results import BenchResult
from moe_mobile.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_results", "token_parts"]

PARTS = ("dense", "attention", "expert", "wait", "router", "head", "rest")
_COLORS = ("#4c72b0", "#8172b3", "#55a868", "#c44e52", "#ccb974", "#64b5cd", "#bbbbbb")


def token_parts(result: BenchResult) -> dict[str, list[float]]:
    """Milliseconds of each part by decoded token, all repetitions one after the other.

    Each list has one value per token; `rest` is what the named parts leave of the token's total.
    """
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    for token in (t for sample in result.tokens for t in sample if t["phase"] == "decode"):
        named = {name: token[f"{name}_ns"] / 1e6 for name in PARTS[:-1]}
        for name, value in named.items():
            parts[name].append(value)
        parts["rest"].append(max(token["total_ns"] / 1e6 - sum(named.values()), 0.0))
    return parts


def draw_results(results: Sequence[BenchResult]) -> Figure:
    """One stacked panel per result that decoded tokens. Raises UsageError where none did."""
    from matplotlib.figure import Figure

    shown = [result for result in results if result.n_gen]
    if not shown:
        raise UsageError("nothing was decoded, so there is nothing to plot", remedy="Use -n")
    figure = Figure(figsize=(10, 3.2 * len(shown)), layout="constrained")
    for index, result in enumerate(shown):
        axes = figure.add_subplot(len(shown), 1, index + 1)
        parts = token_parts(result)
        positions = range(len(parts["rest"]))
        axes.stackplot(positions, *parts.values(), labels=PARTS, colors=_COLORS, step="mid")
        for repetition in range(1, len(result.tokens)):
            axes.axvline(repetition * result.n_gen - 0.5, color="black", linewidth=0.5)
        axes.set_title(
            f"{result.model_type}, {result.test.name}, cache {result.config['cache']}, "
            f"{result.config['residency']}: {result.avg_ts:.1f} tokens/s",
            fontsize=10,
        )
        axes.set_ylabel("ms per token")
        axes.margins(x=0)
        axes.legend(loc="upper right", ncols=len(PARTS), fontsize=7)
    axes.set_xlabel("decoded token, repetitions in a row")
    return figure
