# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Invalid rows: reported, or shown as far as possible, and never a traceback."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from moe_mobile import errors
from moe_mobile.base import limits
from moe_mobile.report.load import MAX_DEPTH, read_results
from moe_mobile.report.page import make_page, summary
from tests.cli.program import run_cli
from tests.files import pipe
from tests.report.rows import figures_of, row, run, write

HALF = "\ud800"  # of a pair of surrogates: JSON can say it, UTF-8 cannot


def reported(path: pathlib.Path) -> str:
    results = read_results([path])
    json.dumps(summary(results), allow_nan=False)
    page = make_page(results, "title").decode()
    # `json.dumps` writes Infinity, which no browser reads.
    json.dumps(figures_of(page), allow_nan=False)
    return page


def test_half_a_character(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        row(model_type=f"a{HALF}b", flags=[HALF], config={"cache": HALF}),
        row(),
        {"error": {"cause": f"{HALF}\x1b[2J"}},
    )
    assert "a?b" in reported(path)
    result = run_cli("report", path, "-o", tmp_path / "page.html")
    assert result.returncode == 0, result.stderr
    assert "the run ended with an error" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    "value", [1e308, -1e308, 5e-324, 0, -1, 10**400], ids=lambda value: f"{value!s:.6}"
)
def test_numbers_beyond_all_measure(tmp_path: pathlib.Path, value: Any) -> None:
    token = {"phase": "decode", "total_ns": value, "misses": value, "wait_ns": value}
    sample = {"t_ms": value, "pss": value}
    strange = row(
        config={"cache": "25%"}, avg_ts=value, gen_ts=value, samples_ts=[value, 1.0, value],
        samples_ns=[value] * 3, itl_ns=[[value, 1]], itl_p50_ms=value, tokens=[[token]],
        runs=[run("2026-11-25T07:00:00Z", waited_s=value, samples=[sample] * 3)],
        hit_rate=value, mib_read_per_token=value, rss_anon_bytes=value,
    )  # fmt: skip
    path = write(tmp_path / "rows.jsonl", row(), strange)
    # What no machine can do is no speed; the row is shown all the same.
    speed = value if abs(value) < 1e300 else None
    told = summary(read_results([path]))
    assert [one["avg_ts"] for one in told["rows"]] == [100.0, speed]
    assert [one["settings"]["cache"] for one in told["rows"]] == ["50%", "25%"]
    assert {"throughput-0", "comparison-0", "latency-1"} <= set(figures_of(reported(path)))


@pytest.mark.parametrize("count", [1, -1, 0])
@pytest.mark.parametrize(
    ("total", "part"), [(0, 0), (-5, -5), (1e-320, 1e-320), (-1, 0), (5, -5), (1e308, 1e308)]
)
def test_times_that_cancel_out(
    tmp_path: pathlib.Path, total: float, part: float, count: int
) -> None:
    names = ("dense_ns", "attention_ns", "expert_ns", "wait_ns", "router_ns", "head_ns")
    token = {"phase": "decode", "count": count, "total_ns": total, **dict.fromkeys(names, part)}
    page = reported(write(tmp_path / "rows.jsonl", row(tokens=[[token] * 2])))
    assert any(name.startswith("parts") for name in figures_of(page)) == (total == 5)


def test_rates_that_are_far_apart(tmp_path: pathlib.Path) -> None:
    strange = [1e308, 1e-308], [5e-324, 1e308], [1e29, 1e-300], [1e-300, 1e-301]
    rows = [row(config={"cache": f"{i}%"}, samples_ts=s) for i, s in enumerate(strange)]
    path = write(tmp_path / "rows.jsonl", *rows, row())
    reported(path)
    for comparison in summary(read_results([path]))["comparisons"]:
        if comparison["low"] is not None:
            assert 0 < comparison["low"] <= comparison["value"] <= comparison["high"] < 1e31


@pytest.mark.parametrize("depth", [MAX_DEPTH, 985, 100_000])
@pytest.mark.parametrize("frame", ["%s\n", "[%s", "[%s]"])
def test_nesting_without_end(tmp_path: pathlib.Path, depth: int, frame: str) -> None:
    deep = '{"n_gen":1,"flags":' + "[" * depth + "]" * depth + "}"
    path = tmp_path / "rows.jsonl"
    path.write_text(frame % deep)
    with pytest.raises(errors.UsageError, match="nested too deep"):
        read_results([path])


@pytest.mark.parametrize("start", ["", "["])
def test_more_values_than_fit_in_memory(
    start: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(start + '{"n_gen":1,"flags":[' + "{}," * 100)
    monkeypatch.setattr(limits, "VALUES", 100)
    with pytest.raises(errors.UsageError, match="holds more than 100 values") as caught:
        read_results([path])
    assert caught.value.file == str(path)


def test_a_pipe_without_a_writer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PIPE_S", 0.05)
    path = tmp_path / "rows.jsonl"
    pipe(path)
    with pytest.raises(errors.IoError, match="nothing was written to this pipe"):
        read_results([path])


def test_some_nesting_is_fine(tmp_path: pathlib.Path) -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH - 2):
        deep = [deep]
    path = write(tmp_path / "rows.jsonl", row(more=deep))
    assert [one["avg_ts"] for one in summary(read_results([path]))["rows"]] == [100.0]
    assert "throughput-0" in figures_of(reported(path))


def test_a_first_row_that_is_cut_off_is_reported(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "rows.jsonl", row())
    path.write_text(path.read_text()[:200])
    with pytest.raises(errors.UsageError, match="its first is cut off") as caught:
        read_results([path])
    assert "continue it" in str(caught.value.remedy)
