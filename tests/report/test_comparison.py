# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Ratios and their intervals, and which rows are compared pair by pair. Numbers are scipy's."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import pytest

from moe_mobile.base.statistics import paired_ratio, t_quantile, welch_ratio
from moe_mobile.report.load import read_results
from moe_mobile.report.page import summary
from tests.report.rows import Json, row, run, write

# Both rise by 2: what they share hides the difference from Welch.
BASE, OTHER = [10.0, 12, 14, 16, 18], [11.0, 13, 15, 17, 19]
WELCH = [1.0744485, 0.7745037, 1.4905540]
PAIRED = [1.0744485, 1.0528698, 1.0964695]


def numbers(ratio: Any) -> list[float]:
    return [ratio.value, ratio.low, ratio.high]


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [
        (0.975, 1, 12.7062047),
        (0.975, 2.5, 3.5746548),
        (0.975, 4, 2.7764451),
        (0.975, 30, 2.0422725),
        (0.9, 7, 1.4149239),
    ],
)
def test_quantiles(probability: float, freedom: float, value: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=1e-7)


def test_intervals() -> None:
    assert numbers(welch_ratio(BASE, OTHER)) == pytest.approx(WELCH)
    assert numbers(paired_ratio(BASE, OTHER)) == pytest.approx(PAIRED)
    # One row without spread, and another number of repetitions.
    uneven = welch_ratio([10, 10, 10], [12, 13])
    assert numbers(uneven) == pytest.approx([1.2489996, 0.7511300, 2.0768710])


def test_a_ratio_has_no_preferred_side() -> None:
    there, back = welch_ratio(BASE, OTHER), welch_ratio(OTHER, BASE)
    assert there.low is not None
    assert there.high is not None
    assert numbers(back) == pytest.approx([1 / there.value, 1 / there.high, 1 / there.low])


@pytest.mark.parametrize("method", [welch_ratio, paired_ratio])
def test_equal_repetitions_prove_nothing(method: Any) -> None:
    for base, other in ([5.0, 5.0], [6.0, 6.0]), ([0.1] * 5, [0.3] * 5), ([7.0], [8.0]):
        ratio = method(base, other)
        assert ratio.value == pytest.approx(other[0] / base[0])
        assert (ratio.low, ratio.high, ratio.verdict) == (None, None, "unknown")
        assert ratio.note in ("equal repetitions", "one repetition")


def test_equal_pairs_prove_nothing_either() -> None:
    # The same ratio in each pair; the interval is Welch's, not one of no width.
    ratio = paired_ratio([98.0, 100, 102], [49.0, 50, 51])
    assert ratio.method == "welch"
    assert numbers(ratio) == pytest.approx([0.5, 0.4778334, 0.5231949])


def interleaved(sessions: Sequence[str | None], samples: Sequence[float], cache: str) -> Json:
    runs = [run("2026-11-25T07:00:00Z") for _ in samples]
    for one, session in zip(runs, sessions, strict=False):
        one |= {} if session is None else {"session": session}
    regime = {"order": "interleaved", "warmup": 1, "gate": None, "charging": False, "seed": 0}
    return row(config={"cache": cache}, samples_ts=list(samples), regime=regime, runs=runs)


def compared(tmp_path: pathlib.Path, *rows: Json) -> Json:
    (found,) = summary(read_results([write(tmp_path / "rows.jsonl", *rows)]))["comparisons"]
    assert isinstance(found, dict)
    return found


def test_turns_of_one_session_are_paired(tmp_path: pathlib.Path) -> None:
    sessions = ["a"] * 5
    found = compared(
        tmp_path, interleaved(sessions, BASE, "50%"), interleaved(sessions, OTHER, "25%")
    )
    assert (found["method"], found["verdict"]) == ("paired", "faster")
    assert [found[name] for name in ("value", "low", "high")] == pytest.approx(PAIRED)
    # Continued by a second command, each pair is still one of neighbours.
    resumed = ["a", "a", "b", "b", "b"]
    rows = interleaved(resumed, BASE, "50%"), interleaved(resumed, OTHER, "25%")
    assert compared(tmp_path, *rows)["method"] == "paired"


@pytest.mark.parametrize(
    ("base", "other"),
    [
        (["a"] * 5, ["b"] * 5),  # two phones, or two days
        (["a", "a", "b", "b", "b"], ["a", "a", "a", "b", "b"]),  # interrupted within a turn
        ([None] * 5, [None] * 5),  # an older version's
        ([""] * 5, [""] * 5),
        (["a"] * 4 + [None], ["a"] * 4 + [None]),
    ],
)
def test_other_turns_are_not(
    tmp_path: pathlib.Path, base: list[str | None], other: list[str | None]
) -> None:
    found = compared(tmp_path, interleaved(base, BASE, "50%"), interleaved(other, OTHER, "25%"))
    assert (found["method"], found["verdict"]) == ("welch", "no difference shown")
    assert [found[name] for name in ("value", "low", "high")] == pytest.approx(WELCH)


def test_rows_in_order_or_with_a_gap_are_not_paired(tmp_path: pathlib.Path) -> None:
    rows = [interleaved(["a"] * 5, BASE, "50%"), interleaved(["a"] * 5, OTHER, "25%")]
    for one in rows:
        one["regime"]["order"] = "sequential"
    assert compared(tmp_path, *rows)["method"] == "welch"
    # A repetition without its speed leaves as many in both, but not of the same turns.
    rows = [interleaved(["a"] * 5, BASE, "50%"), interleaved(["a"] * 5, OTHER, "25%")]
    rows[0]["samples_ts"][0] = rows[1]["samples_ts"][4] = None
    assert compared(tmp_path, *rows)["method"] == "welch"
