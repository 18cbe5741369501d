# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The page of a search: whole, alone, and its charts show what was found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from moe_mobile.quality.score import Quality
from moe_mobile.report.pareto import loads_front, speed_front, told
from moe_mobile.report.residency import lifetimes, over_time, shares
from moe_mobile.report.tuning import make_page
from moe_mobile.routing.trace import Trace
from moe_mobile.tune.choice import candidates, choose, parse_limit, with_speeds
from moe_mobile.tune.outcome import Outcome
from moe_mobile.tune.residency import residency
from tests.report.rows import figures_of
from tests.report.test_report import _Page
from tests.routing.traces import a_trace
from tests.tune.test_tune_choice import MODEL, a_row

LIMIT = parse_limit("+1%")
EXACT = a_row("exact", loads=1.5)
TAKEN = a_row("cache-prior:0.2,J=1", 0.004, 0.5, noise=0.05)
ROWS = (
    EXACT,
    a_row("cache-prior:0.05,J=1", 0.001, 0.9, noise=0.05),
    TAKEN,
    a_row("cache-prior:0.8,J=1", 0.4, 0.2, noise=0.05),
    a_row("max-rank:3,J=1", 0.006, 0.8, noise=0.05, dropped=20),
    a_row("cumulative:0.8,J=1", 0.0, 0.1, blocks=(1e9,) * 20),
)


def an_outcome(*rows: Quality, **changes: Any) -> Outcome:
    found = tuple(candidates(rows or ROWS, LIMIT))
    return dataclasses.replace(Outcome(MODEL, LIMIT, "b" * 64, found), **changes)


def the_trace(tokens: int = 60) -> Trace:
    """Of two layers with eight experts."""
    logits = a_trace(3, tokens).router_logits[:, :2].copy()
    return a_trace(3, tokens, logits=logits, layers=(0, 3), sequences=(tokens - 20, 20))


def page_of(outcome: Outcome, **options: Any) -> tuple[str, _Page]:
    text = make_page(outcome, the_trace(), place=options.get("place", "local")).decode()
    return text, _Page(text)


def test_a_page_is_alone_and_tells_the_choice() -> None:
    text, page = page_of(an_outcome())
    assert page.loads == []
    assert page.open == []
    assert '<meta name="generator" content="moe-mobile report">' in text
    for shown in (
        "With 50% of the experts cached, cache-prior:0.2,J=1 (lossy) reads 0.5 experts per token "
        "and layer instead of 1.5",
        "chosen, front, within",
        "front, over",
        "a" * 64,
        "Other kinds of text may lose more",
        "Some settings are lost beyond any number",
        "dropped %",
    ):
        assert shown in page.text
    assert 'class="marked"' in text
    assert len(text) < 6 << 20


def test_hostile_names_are_escaped() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    outcome = an_outcome(
        *ROWS, dataclasses.replace(TAKEN, routing=evil), model=dataclasses.replace(MODEL, name=evil)
    )
    text, page = page_of(outcome, place=evil)
    assert page.loads == []
    assert "<script>alert(1)" not in text
    assert "alert(1)" in page.text


def test_only_exact_fits() -> None:
    _, page = page_of(an_outcome(EXACT, a_row("max-rank:3,J=1", 0.4, 0.2)))
    assert "exact : nothing else is surely within" in page.text
    assert "only exact routing is surely within +1%" in page.text


def test_a_checkpoint_has_no_bundle() -> None:
    model = dataclasses.replace(MODEL, source="transformers", source_id="demo")
    _, page = page_of(an_outcome(model=model), place=None)
    assert "Checkpoint demo" in page.text
    assert "transformers" in page.text


def test_the_front_is_marked() -> None:
    group = an_outcome().found
    chosen = choose(group)
    assert chosen.row is TAKEN
    figure = loads_front(group, chosen, LIMIT)
    line, *series = figure.data
    assert line["x"] == [0.2, 0.5, 0.9, 1.5]
    # What is far above is drawn at the edge, with its own sign.
    low, high = figure.layout["yaxis"]["range"]
    assert low < 0 < 1 < high < 5
    assert line["y"][0] == pytest.approx(high, rel=1e-4)
    symbols = {s for one in series if "marker" in one for s in one["marker"]["symbol"]}
    assert "triangle-up-open" in symbols
    texts = [note["text"] for note in figure.layout["annotations"]]
    assert texts == ["limit +1%", "<b>exact</b>", "<b>chosen</b>"]
    names = [key.name for key in figure.keys]
    assert names == [
        "limit +1%", "the front", "cache-prior, J=1 (lossy)", "max-rank, J=1 (lossy)",
        "cumulative, J=1 (lossy)",
    ]  # fmt: skip
    assert "chosen: cache-prior:0.2,J=1 (lossy)" in figure.alt
    assert "exact: 1.5 experts" in figure.alt


def test_a_limit_far_above_does_not_flatten() -> None:
    limit = parse_limit("+60%")
    group = candidates(ROWS[:3], limit)
    figure = loads_front(group, choose(group), limit)
    assert figure.layout["yaxis"]["range"][1] < 1
    assert "far above this chart" in figure.keys[0].name
    assert figure.layout["shapes"] == []


def test_speed_if_it_was_measured() -> None:
    outcome = an_outcome()
    assert speed_front(outcome.found, outcome.chosen[0], LIMIT) is None
    group = outcome.found
    speeds = {group[0].cache: [10.0, 11.0], group[2].cache: [20.0, 21.0]}
    measured = dataclasses.replace(outcome, found=tuple(with_speeds(group, speeds)))
    figure = speed_front(measured.found, measured.chosen[0], LIMIT)
    assert figure is not None
    assert figure.data[0]["x"] == [20.5, 10.5]
    text, page = page_of(measured)
    assert "20.5 tokens/s instead of 10.5" in page.text
    assert {"speed-0", "speed-1"} <= set(figures_of(text))


def test_the_drawing_shows_the_cached_experts() -> None:
    trace = the_trace()
    views = [residency(trace, one.cache) for one in an_outcome().found[:2]]
    heat = shares(views, trace.layers)
    assert np.allclose(heat.data[1]["z"], views[1].cached.mean(axis=0), atol=1e-3)
    assert heat.data[0]["y"] == ["0", "3"]

    time = over_time(views, trace.layers)
    assert [name for name, _ in time.variants] == ["layer 0", "layer 3"]
    assert time.columns == 40  # tokens of the first sequence
    for layer, (_, texts) in enumerate(time.variants):
        for view, text in zip(views, texts, strict=True):
            levels = np.array([_LEVELS.index(level) for level in text]).reshape(8, 40)
            assert (levels == 63 * view.cached[:40, layer].T).all()

    histogram = lifetimes(views)
    assert histogram is not None
    titles = [note["text"] for note in heat.layout["annotations"]]
    assert titles == ["<b>exact</b>", "<b>cache-prior:0.05,J=1 (lossy)</b>"]
    assert [note["text"] for note in time.layout["annotations"]] == titles
    assert [key.name.partition(": mean")[0] for key in histogram.keys] == [
        "exact",
        "cache-prior:0.05,J=1 (lossy)",
    ]
    for bars, view in zip(histogram.data, views, strict=True):
        assert sum(bars["y"]) == pytest.approx(100, abs=0.1)
        assert f"of {len(view.lifetimes)} evictions" in bars["hovertemplate"]
    full = residency(trace, dataclasses.replace(an_outcome().found[0].cache, capacity=8))
    assert lifetimes([full]) is None


def test_long_texts_are_drawn_coarsely() -> None:
    trace = a_trace(1, 900)
    views = [residency(trace, an_outcome().found[0].cache)]
    time = over_time(views, trace.layers)
    assert time.columns == 160
    levels = np.array([_LEVELS.index(level) for level in time.variants[0][1][0]]).reshape(8, 160)
    edges = np.linspace(0, 900, 161).round().astype(int)
    first = views[0].cached[edges[0] : edges[1], 0].mean(axis=0)
    assert (levels[:, 0] == (63 * first).round()).all()


_LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def test_changes_in_words() -> None:
    by_name = {one.row.routing: told(one) for one in an_outcome().found}
    assert by_name["exact"] == "unchanged"
    assert by_name["cumulative:0.8,J=1"] == "lost"
    assert by_name["cache-prior:0.2,J=1"].startswith("+0.40 ± 0.")
