# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What `tune` says to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_mobile.base.text import change_text, percent, table

if TYPE_CHECKING:
    from moe_mobile.quality.score import Quality, ScoredModel
    from moe_mobile.tune.choice import Candidate
    from moe_mobile.tune.outcome import Outcome


def describe(outcome: Outcome) -> str:
    """A table for each size of the cache, what was chosen, and warnings."""
    model, first = outcome.model, outcome.found[0].row
    parts = [f"{scored_text(model, first)}; limit: {outcome.limit.text}"]
    chosen = outcome.chosen
    for capacity in outcome.capacities:
        group = outcome.of(capacity)
        title = f"cache of {outcome.share(capacity)}: {capacity} of {model.experts} experts per "
        parts.append(f"{title}layer\n\n{_table(group, chosen)}")
    parts.append("\n".join(f"chosen: {_chosen(outcome, one)}" for one in chosen))
    notes = [f"warning: {text}" for text in outcome.warnings]
    notes += [f"note: {text}" for text in outcome.notes]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def scored_text(model: ScoredModel, row: Quality) -> str:
    """What was scored: the beginning of a table of rows."""
    return (
        f"{model.name}, {model.source} in {model.precision}: {model.words}; {row.predictions} of "
        f"{row.tokens} tokens predicted; pool: {row.pool}, eviction: {row.eviction}"
    )


def _saving(one: Candidate) -> str:
    """Loads, compared with exact routing's with the same cache."""
    exact = one.exact.loads_per_token_layer
    return percent(one.loads / exact) if exact else "-"


def _table(group: list[Candidate], chosen: list[Candidate]) -> str:
    drops = any(one.row.dropped for one in group)
    speeds = any(one.speeds for one in group)
    header = ["routing", "", "loads/token-layer", "of exact", "hits", "changed"]
    header += [*["dropped"] * drops, "perplexity", "change", "limit", *["tokens/s"] * speeds]
    rows = []
    for one in sorted(group, key=lambda one: (one.loads, one.change)):
        row, speed = one.row, one.speed
        rows.append(
            [
                row.label,
                "chosen" if one in chosen else "front" if one.on_front else "",
                f"{one.loads:.3f}",
                _saving(one),
                percent(row.hit_rate),
                percent(row.changed_share),
                *([percent(row.dropped_share)] * drops),
                f"{row.perplexity:.4f}",
                change_text(one.change, one.error) if row.lossy else "-",
                one.verdict,
                *(["-" if speed is None else f"{speed:.1f}"] * speeds),
            ]
        )
    return table(header, rows, left=2)


def _chosen(outcome: Outcome, one: Candidate) -> str:
    row = one.row
    text = f"cache {outcome.share(row.capacity)}, routing {row.label}"
    if not row.lossy:
        return f"{text}: the model's own choice of experts"
    told = change_text(one.change, one.error)
    text += f" (lossy): {_saving(one)} of exact routing's loads, perplexity {told}"
    exact = next(other.speed for other in outcome.of(row.capacity) if other.row is one.exact)
    if one.speed is not None and exact:
        text += f", {one.speed:.1f} instead of {exact:.1f} tokens/s"
    return text
