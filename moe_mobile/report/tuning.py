# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The page of `tune`: what routings cost and save, what was chosen, and what its cache held."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import moe_mobile
from moe_mobile.base.text import digits
from moe_mobile.report.figure import Bar, Segment, bars
from moe_mobile.report.pareto import loads_front, speed_front, told
from moe_mobile.report.residency import lifetimes, over_time, shares
from moe_mobile.report.template import Chart, Section, render, script_json
from moe_mobile.routing.trace import Trace
from moe_mobile.tune.choice import Candidate
from moe_mobile.tune.outcome import Outcome
from moe_mobile.tune.residency import Residency, residency

_ALWAYS = (
    "The intervals cover the spread within this text alone. Other kinds of text may lose more: "
    "score one that is like what the model will be asked.",
)


def make_page(outcome: Outcome, trace: Trace, *, place: str | None) -> bytes:
    """The page as HTML, in UTF-8.

    Args:
        outcome: what was found.
        trace: of the text's first tokens, which is replayed to see what the cache held.
        place: where the engine ran; None: it was transformers.
    """
    shown = outcome.chosen[0]
    views = [residency(trace, one.cache) for one in dict.fromkeys((_exact(outcome, shown), shown))]
    sections = [
        _fronts(outcome),
        _speeds(outcome),
        _held(outcome, shown, views, trace.layers),
        _stayed(views),
    ]
    sections = [section for section in sections if section.charts or section.absent]
    extra = _Extra(
        sizes=len(outcome.capacities) > 1,
        drops=any(one.row.dropped for one in outcome.found),
        speeds=any(one.speeds for one in outcome.found),
    )
    return render(
        "tuning.html",
        sections,
        title=f"Routings of {outcome.model.name} within {outcome.limit.words}",
        lead=[_lead(outcome, one) for one in outcome.chosen],
        facts=_facts(outcome, place),
        flags=[*outcome.warnings, *outcome.notes, *_doubts(shown, views), *_ALWAYS],
        sections=sections,
        columns=_columns(extra),
        table=[_cells(outcome, one, extra) for one in outcome.found],
        marked=[i for i, one in enumerate(outcome.found) if one in outcome.chosen],
        data=script_json(outcome.as_dict()["rows"]),
    )


def _exact(outcome: Outcome, one: Candidate) -> Candidate:
    return next(other for other in outcome.found if other.row is one.exact)


def _lead(outcome: Outcome, one: Candidate) -> dict[str, str]:
    """What was chosen, in the words of a reader who wants nothing else."""
    size = f"With {outcome.share(one.row.capacity)} of the experts cached"
    if not one.row.lossy:
        return {"size": size, "routing": one.row.label, "text": "nothing else is surely within."}
    exact = _exact(outcome, one)
    text = (
        f"reads {digits(one.loads, 3)} experts per token and layer instead of "
        f"{digits(exact.loads, 3)}, and changes the perplexity by {told(one)}."
    )
    if one.speed is not None and exact.speed is not None:
        text += f" {digits(one.speed)} tokens/s instead of {digits(exact.speed)}."
    return {"size": size, "routing": one.row.marked, "text": text}


def _facts(outcome: Outcome, place: str | None) -> list[tuple[str, str]]:
    model, row = outcome.model, outcome.found[0].row
    where = "transformers" if place is None else "this machine" if place == "local" else place
    return [
        ("Model", f"{model.name}, {model.precision}"),
        ("Experts", f"{model.top_k} of {model.experts} in {len(model.layers)} layers"),
        ("Limit of perplexity", outcome.limit.text),
        ("Tokens", f"{row.tokens:,}, in sequences of {model.context:,} at most"),
        ("Scored by", where if place is None else f"the engine on {where}"),
        ("Cache", f"{'per layer' if row.pool == 'layer' else 'global'}, {row.eviction}, cold"),
        ("Settings tried", str(len(outcome.found))),
        ("moe-mobile", moe_mobile.__version__),
        ("Bundle" if model.source == "engine" else "Checkpoint", model.source_id),
        ("Text (SHA-256 of its token ids)", outcome.text_sha256),
    ]


def _doubts(shown: Candidate, views: Sequence[Residency]) -> list[str]:
    """Whether the replay shows what was measured."""
    view = views[-1]
    return [
        f"What the cache held is replayed from the first {view.tokens:,} tokens' router logits "
        "under exact routing; under another one the model's own logits move a little. The replay "
        f"reads {view.loads_per_token_layer:.3f} experts per token and layer; "
        f"{shown.loads:.3f} were measured with all tokens."
    ]


def _fronts(outcome: Outcome) -> Section:
    chosen = {one.row.capacity: one for one in outcome.chosen}
    charts = []
    for capacity in outcome.capacities:
        group = outcome.of(capacity)
        figure = loads_front(group, chosen[capacity], outcome.limit)
        charts.append(Chart(_size(outcome, capacity), figure, _far(group)))
    return Section(
        "front",
        "Cost and saving",
        "Left is less to read, down is nearer to the model's own choice. Bars are 95 % intervals; "
        "a setting is taken only with all of its interval below the limit.",
        charts,
    )


def _size(outcome: Outcome, capacity: int) -> str:
    share = outcome.share(capacity)
    return f"{share} cached: {capacity} of {outcome.model.experts} experts per layer"


def _far(group: Sequence[Candidate]) -> str:
    return (
        "Some settings are lost beyond any number; the table has them."
        if any(not math.isfinite(one.change) for one in group)
        else ""
    )


def _speeds(outcome: Outcome) -> Section:
    chosen = {one.row.capacity: one for one in outcome.chosen}
    charts = []
    for capacity in outcome.capacities:
        group = outcome.of(capacity)
        figure = speed_front(group, chosen[capacity], outcome.limit)
        if figure is None:
            continue
        measured = [one for one in group if one.speed is not None]
        shown = [
            Bar(
                one.row.marked,
                digits(one.speed or 0),
                [Segment(one.speed or 0, "@c0", f"{digits(one.speed or 0)} tokens/s")],
                dots=one.speeds,
            )
            for one in sorted(measured, key=lambda one: -one.loads)
        ]
        words = "; ".join(f"{bar.label}: {bar.value}" for bar in shown)
        charts.append(Chart(_size(outcome, capacity), figure))
        charts.append(Chart("Repetitions", bars("speeds", f"Tokens/s. {words}", "tokens/s", shown)))
    return Section(
        "speed",
        "Speed",
        "Decoding, measured in turns with the routers' logits of the text; the exact baseline and "
        "the best of the front that are within the limit. Dots are repetitions.",
        charts,
    )


def _held(
    outcome: Outcome, shown: Candidate, views: Sequence[Residency], layers: Sequence[int]
) -> Section:
    size = outcome.share(shown.row.capacity)
    which = ", the choice that loads least" if len(outcome.capacities) > 1 else ""
    first = "Layer by layer, over the first tokens"
    note = "A column stands for some tokens in a row: the stronger its colour, the more of them."
    return Section(
        "residency",
        "What the cache held",
        f"Replayed with a cache of {size}{which}; exact routing comes first.",
        [
            Chart("Every expert of every layer", shares(views, layers)),
            Chart(first, over_time(views, layers), note),
        ],
    )


def _stayed(views: Sequence[Residency]) -> Section:
    figure = lifetimes(views)
    left = ", ".join(f"{view.marked}: {view.staying:,}" for view in views)
    return Section(
        "lifetimes",
        "How long experts stayed",
        "From load to eviction. Those that were still cached at the end of a sequence are not in "
        f"here ({left}).",
        [] if figure is None else [Chart("Lifetimes", figure)],
        "Nothing was evicted.",
    )


@dataclasses.dataclass(frozen=True)
class _Extra:
    """Columns that not every table needs: a page is narrow."""

    sizes: bool
    drops: bool
    speeds: bool


def _columns(extra: _Extra) -> list[str]:
    return [
        "routing", "lossy", *["cached"] * extra.sizes, "loads", "of exact %", "hits %", "changed %",
        *["dropped %"] * extra.drops, "perplexity", "change %", "±", *["tokens/s"] * extra.speeds,
        "limit",
    ]  # fmt: skip


def _cells(outcome: Outcome, one: Candidate, extra: _Extra) -> list[str]:
    row, exact = one.row, one.exact.loads_per_token_layer
    marks = [*["chosen"] * (one in outcome.chosen), *["front"] * one.on_front, one.verdict]
    finite = math.isfinite(one.change)
    return [
        row.label,
        "lossy" if row.lossy else "",
        *[outcome.share(row.capacity)] * extra.sizes,
        f"{one.loads:.3f}",
        f"{100 * one.loads / exact:.1f}" if exact else "-",
        f"{100 * row.hit_rate:.1f}",
        f"{100 * row.changed_share:.1f}",
        *[f"{100 * row.dropped_share:.1f}"] * extra.drops,
        f"{row.perplexity:.4f}" if math.isfinite(row.perplexity) else "-",
        f"{100 * one.change:.2f}" if finite else "-",
        f"{100 * one.error:.2f}" if finite and one.error is not None else "-",
        *["-" if one.speed is None else digits(one.speed)] * extra.speeds,
        ", ".join(marks),
    ]
