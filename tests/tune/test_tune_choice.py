# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The grid, the front and the choice: nothing dominates the front, nothing taken is in doubt."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.errors import UsageError
from moe_mobile.quality.score import Quality, ScoredModel
from moe_mobile.tune.choice import (
    Candidate,
    Limit,
    candidates,
    choose,
    front,
    parse_limit,
    warnings,
    with_speeds,
)
from moe_mobile.tune.grid import default_grid, grid
from moe_mobile.tune.outcome import Outcome
from moe_mobile.tune.settings_file import SettingsFile, read_settings, write_settings
from moe_mobile.tune.speed import contenders

TOKENS = 640
MODEL = ScoredModel(
    "m",
    (0, 1),
    8,
    2,
    precisions=("8da8w", "8da4w"),
    source="engine",
    source_id="a" * 64,
    identity="here",
    vocab_size=100,
    context=64,
)


def a_row(
    routing: str, change: float = 0.0, loads: float = 1.0, *, noise: float = 0.0, **changes: Any
) -> Quality:
    """Of 20 blocks; its perplexity is 20 x (1 + change), give or take the noise of the blocks."""
    rng = np.random.default_rng(len(routing))
    spread = rng.standard_normal(20)
    spread -= spread.mean()
    blocks = (math.log(20) + math.log1p(change)) * 32 + noise * spread
    misses = round(loads * TOKENS * 2)
    members: dict[str, Any] = {
        "routing": routing,
        "requested": routing,
        "note": "",
        "eviction": "lru",
        "pool": "layer",
        "capacity": 4,
        "layers": 2,
        "experts": 8,
        "top_k": 2,
        "tokens": TOKENS,
        "predictions": TOKENS,
        "blocks": tuple(blocks.tolist()),
        "hits": TOKENS * 4 - misses,
        "misses": misses,
    }
    return Quality(**members | changes)


def judged(*rows: Quality, limit: str = "+1%") -> list[Candidate]:
    return candidates([a_row("exact", loads=1.5), *rows], parse_limit(limit))


points = st.lists(
    st.tuples(
        st.floats(0, 4) | st.sampled_from([0.0, 1.0, 2.0]),
        st.floats(-1, 9) | st.sampled_from([0.0, 1.0, math.inf]),
    ),
    min_size=1,
    max_size=30,
)


@given(points)
def test_the_front_has_the_undominated_candidates(found: list[tuple[float, float]]) -> None:
    def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] <= other[1] and one != other

    expected = [not any(dominates(other, one) for other in found) for one in found]
    # If perplexities are infinite, few loads alone do not put a candidate on the front.
    expected = [e and math.isfinite(p[1]) for e, p in zip(expected, found, strict=True)]
    assert front(found) == expected


@given(
    st.lists(st.tuples(st.floats(-0.05, 0.2), st.floats(0, 2), st.floats(0, 3)), max_size=12),
    st.sampled_from(["+0%", "+1%", "+5%", "20.4", "30"]),
)
def test_the_choice_is_surely_within_the_limit(
    values: list[tuple[float, float, float]], limit: str
) -> None:
    rows = [
        a_row(f"max-rank:{index + 3},J=1", change, loads, noise=noise)
        for index, (change, loads, noise) in enumerate(values)
    ]
    found = judged(*rows, limit=limit)
    chosen = choose(found)
    allowed = parse_limit(limit).change(chosen.exact)
    if chosen.row.lossy:
        assert chosen.error is not None
        assert chosen.change + chosen.error <= allowed
    for other in found:
        surely = other.error is not None and other.change + other.error <= allowed
        if surely or not other.row.lossy:
            assert chosen.loads <= other.loads
        assert other.accepted == (surely or not other.row.lossy)


def test_how_limits_are_written() -> None:
    assert parse_limit("+1%") == Limit("+1%", share=0.01)
    assert parse_limit(" 2.5 % ") == Limit("2.5 %", share=0.025)
    assert parse_limit("12.3") == Limit("12.3", perplexity=12.3)
    exact = a_row("exact")
    assert parse_limit("20.2").change(exact) == pytest.approx(0.01)
    for wrong in ("", "+1", "-1%", "+1%%", "1e3", "nan", "0.5", "+\u0661%", "+1 percent"):
        with pytest.raises(UsageError) as caught:
            parse_limit(wrong)
        assert caught.value.setting == "limit"


@given(st.floats(1.5, 1e5))
def test_the_perplexity_that_a_limit_must_not_be_below_is_a_limit(perplexity: float) -> None:
    exact = a_row("exact", blocks=(math.log(perplexity) * 32,) * 20)
    with pytest.raises(UsageError, match="on this text already") as caught:
        parse_limit("1").change(exact)
    found = re.search(r"a perplexity of ([\d.]+) on this text", caught.value.cause)
    assert found is not None
    assert 0 <= parse_limit(found[1]).change(exact) < 1e-3


def test_verdicts() -> None:
    within, unsure, over, lost = judged(
        a_row("max-rank:3", 0.005, 0.9, noise=0.1),
        a_row("max-rank:4", 0.009, 0.8, noise=0.6),
        a_row("max-rank:5", 0.02, 0.7, noise=9.0),
        a_row("max-rank:7", 0.0, 0.5, blocks=(1e9,) * 20),
    )[1:]
    assert (within.verdict, unsure.verdict, over.verdict) == ("within", "unsure", "over")
    assert (lost.change, lost.verdict) == (math.inf, "over")
    assert [one.accepted for one in (within, unsure, over)] == [True, False, False]
    with pytest.raises(UsageError, match="another text"):
        judged(a_row("max-rank:6", blocks=(96.0,) * 19))


def test_a_short_text_proves_nothing() -> None:
    short = a_row("exact", loads=1.5, blocks=a_row("exact").blocks[:9], predictions=288)
    alike = a_row("max-rank:3", 0.0, 0.1, blocks=short.blocks, predictions=288)
    found = candidates([short, alike], parse_limit("+1%"))
    assert choose(found).row is short
    told = warnings(found, parse_limit("+1%"))
    assert "only exact routing" in told[0]
    assert "640 tokens are too few to tell whether 1 more is within" in told[1]


def test_warns_how_much_text_is_needed() -> None:
    found = judged(a_row("max-rank:3", 0.004, 0.5, noise=1.0))
    (_, told) = warnings(found, parse_limit("+1%"))
    error, room = found[1].error, 0.006
    assert error is not None
    needed = math.ceil(TOKENS * (error / room) ** 2 / 1000) * 1000
    assert told.endswith(f": about {needed} would tell")
    assert "max-rank:3 (+0.40 ± " in told
    within = judged(a_row("max-rank:3", 0.004, 0.5))
    assert warnings(within, parse_limit("+1%")) == []


def test_a_routing_that_is_off_is_exact() -> None:
    off = a_row("exact", 0.0, 0.4, requested="cache-prior:0.5,J=2", note="top-2 with J=2")
    found = judged(off)
    assert choose(found).row is off
    assert found[1].verdict == "exact"


def test_loads_of_a_lower_precision_count_by_their_bytes() -> None:
    exact = a_row("exact", loads=1.5, bytes_read=3000)
    low = a_row("exact", 0.001, 1.5, bytes_read=1200, expert_precision="low")
    found = candidates([exact, low], parse_limit("+1%"))
    assert [one.loads for one in found] == pytest.approx([1.5, 0.6])
    assert [one.verdict for one in found] == ["exact", "within"]
    chosen = choose(found)
    assert (chosen.row, chosen.exact, chosen.cache.precision) == (low, exact, "low")
    assert chosen.row.marked == "exact, precision low (lossy)"


def test_speed_decides_if_it_is_significant() -> None:
    rows = [a_row("max-rank:3", 0.001, 0.5), a_row("max-rank:4", 0.001, 0.4)]
    found = judged(*rows)
    exact, more, least = (one.cache for one in found)

    def chosen(*speeds: list[float]) -> str:
        measured = dict(zip((exact, more, least), speeds, strict=False))
        return choose(with_speeds(found, measured)).row.routing

    assert choose(found).row.routing == "max-rank:4"
    assert chosen([10, 11, 10], [30, 31, 32], [20, 21, 21.5]) == "max-rank:3"
    # Faster on average, but not in all turns.
    assert chosen([10, 11, 10], [30, 15, 40], [20, 21, 22]) == "max-rank:4"
    # What was not measured is not chosen.
    assert chosen([10, 11, 10], [30, 31, 32]) == "max-rank:3"


def test_the_contenders_are_measured() -> None:
    rows = [a_row(f"max-rank:{i}", 0.001 * i, 1.4 - 0.1 * i) for i in range(3, 10)]
    found = judged(*rows, a_row("max-rank:20", 0.5, 0.1), a_row("max-rank:21", 0.009, 1.4))
    assert [one.row.routing for one in contenders(found)] == [
        "exact",
        "max-rank:9",
        "max-rank:8",
        "max-rank:7",
        "max-rank:6",
    ]


def test_the_grid() -> None:
    assert default_grid(8, 1) == ["exact"]
    two = default_grid(8, 2)
    assert all(",J=1" in text for text in two if text.startswith("cache-prior"))
    assert [text for text in two if text.startswith("max-rank")] == [
        "max-rank:3", "max-rank:4", "max-rank:6", "max-rank:8",
    ]  # fmt: skip
    wide = default_grid(128, 8)
    assert wide[0] == "exact"
    assert len(wide) == len(set(wide)) == 26
    assert "max-rank:32" in wide
    assert grid(8, 2, ["max-rank:3", "exact"]) == ["exact", "max-rank:3"]
    assert grid(8, 2, ["max-rank:3"], ["0.5", " 1"]) == [
        "exact",
        "max-rank:3",
        "exact+drop-cold:0.5",
        "max-rank:3+drop-cold:0.5",
        "exact+drop-cold:1",
        "max-rank:3+drop-cold:1",
    ]
    with pytest.raises(UsageError, match="says already"):
        grid(8, 2, ["exact+drop-cold:1"], ["0.5"])


def test_an_outcome_as_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    small = [a_row("exact", loads=1.8, capacity=3), a_row("max-rank:3", 0.002, 1.0, capacity=3)]
    rows = [a_row("exact", loads=1.5), a_row("max-rank:4", 0.001, 0.4), *small]
    limit = parse_limit("+1%")
    found = with_speeds(candidates(rows, limit), {})
    outcome = Outcome(MODEL, limit, "b" * 64, tuple(found))
    path = tmp_path_factory.mktemp("out") / "settings.json"
    write_settings(path, outcome.settings_file())
    settings = read_settings(path)
    assert settings.bundle_hash == MODEL.source_id
    assert [one.settings.cache for one in settings.choices] == ["50%", "37.5%"]
    assert settings.pick("37.5%").settings.routing == "max-rank:3"
    assert settings.choices[0].measured.exact_loads_per_token_layer == 1.5
    document = outcome.as_dict()
    assert [row["chosen"] for row in document["rows"]] == [False, True, False, True]
    assert document["warnings"] == []


@pytest.mark.parametrize(
    "wrong",
    [{"routing": "cache-prior:much"}, {"routing": "max-rank:0"}, {"eviction": "fifo"}],
    ids=str,
)
def test_settings_that_no_engine_takes_are_not_written(
    wrong: dict[str, str], tmp_path: Path
) -> None:
    found = Outcome(MODEL, parse_limit("+1%"), "b" * 64, tuple(judged(a_row("max-rank:4,J=1"))))
    settings = found.settings_file()
    (choice,) = settings.choices
    broken = dataclasses.replace(choice.settings, **wrong)
    bad: SettingsFile = dataclasses.replace(
        settings, choices=(dataclasses.replace(choice, settings=broken),)
    )
    path = tmp_path / "settings.json"
    with pytest.raises(UsageError, match="would not be taken") as caught:
        write_settings(path, bad)
    assert caught.value.file == str(path)
    assert next(iter(wrong.values())) in caught.value.cause
    assert not path.exists()
    assert write_settings(path, settings)
