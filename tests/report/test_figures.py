# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the charts hold, against rows by hand."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from moe_mobile.report.figure import logarithmic
from moe_mobile.report.load import read_results
from moe_mobile.report.page import make_page
from tests.report.rows import Json, figures_of, row, run, write


def drawn(tmp_path: pathlib.Path, *rows: Json) -> dict[str, Json]:
    results = read_results([write(tmp_path / "rows.jsonl", *rows)])
    return figures_of(make_page(results, "title").decode())


def bars_of(figure: Json) -> list[list[float]]:
    """The pieces of the bars, a list per place in the stack."""
    return [trace["x"] for trace in figure["data"] if trace["type"] == "bar"]


def hatched(figure: Json) -> list[bool]:
    shapes = [trace["marker"]["pattern"]["shape"] for trace in figure["data"] if "width" in trace]
    return [any(one) for one in shapes]


SLOW = {"avg_ts": 50.0, "gen_ts": 50.0, "stddev_ts": 1.5, "samples_ts": [48.5, 50.0, 51.5]}


def test_throughput_with_its_spread_and_repetitions(tmp_path: pathlib.Path) -> None:
    rows = row(), row(config={"cache": "25%"}, **SLOW), row(config={"cache": "75%"}, **SLOW)
    rows[2]["samples_ts"] = [50.0]  # one repetition has no spread
    bars, spread, dots = drawn(tmp_path, *rows)["throughput-0"]["data"]
    assert bars["x"] == [100, 50, 50]
    assert bars["marker"]["color"] == ["@c0", "@c1", "@c2"]
    assert (spread["x"], spread["error_x"]["array"]) == ([100, 50], [2.0, 1.5])
    assert spread["y"] == bars["y"][:2]
    assert dots["x"] == [98, 100, 102, 48.5, 50, 51.5]


def test_the_first_token(tmp_path: pathlib.Path) -> None:
    runs = [run("2026-11-25T07:00:00Z")] * 2
    one = row(n_prompt=8, prompt_ts=400.0, ttft_ms=20.0, ttft_stddev_ms=0.5, runs=runs)
    figures = drawn(tmp_path, one)
    # Of decoding, of the prompt, of the first token; the spread of a phase of both is not known.
    assert [bars_of(figures[f"throughput-{i}"]) for i in range(3)] == [[[100]], [[400]], [[20]]]
    assert len(figures["throughput-0"]["data"]) == 1
    assert figures["throughput-2"]["data"][1]["error_x"]["array"] == [0.5]


def test_every_token_with_its_misses(tmp_path: pathlib.Path) -> None:
    misses = [[0, 2, 0, 8]] * 3
    tokens = [
        [{"phase": "prefill", "total_ns": 1}]  # is not a decoded token
        + [{"phase": "decode", "total_ns": 1, "misses": count} for count in counts]
        for counts in misses
    ]
    figures = drawn(tmp_path, row(tokens=tokens))
    assert figures["latency-0"]["data"][0]["x"] == [10, 11, 11]
    hit, missed = figures["latency-1"]["data"]
    # 9, 10, 11, 10 ms three times; the second and the fourth missed, the fourth more.
    assert (hit["x"], hit["y"]) == ([0, 2, 4, 6, 8, 10], [9, 11] * 3)
    assert (missed["x"], missed["y"]) == ([1, 3, 5, 7, 9, 11], [10, 10] * 3)
    sizes = missed["marker"]["size"]
    assert sizes[0] < sizes[1]
    assert sizes == sizes[:2] * 3
    assert hit["marker"]["color"] == "@paper"
    assert missed["customdata"][1][:2] == [1, 4]
    lines = figures["latency-1"]["layout"]["shapes"]
    assert [line["x0"] for line in lines if line.get("yref") == "paper"] == [3.5, 7.5]
    assert [line["y0"] for line in lines if line.get("xref") == "paper"] == [10, 11, 11]


def test_parts_of_a_token_add_up_to_all_of_it(tmp_path: pathlib.Path) -> None:
    parts = {"dense": 1, "attention": 2, "expert": 3, "router": 4, "head": 5, "wait": 10}
    token: Json = {f"{name}_ns": 1_000_000 * ms for name, ms in parts.items()}
    token |= {"phase": "decode", "count": 1, "total_ns": 50_000_000}
    figure = drawn(tmp_path, row(tokens=[[token, token]]))["parts-0"]
    # Of 50 ms; what no part names is 25.
    assert bars_of(figure) == [[2], [4], [6], [8], [10], [50], [20]]
    assert [trace["marker"]["color"][0][6:] for trace in figure["data"]] == [
        "dense", "attention", "expert", "router", "head", "rest", "wait",
    ]  # fmt: skip
    assert hatched(figure) == [False] * 6 + [True]


def test_hits_and_reads(tmp_path: pathlib.Path) -> None:
    figures = drawn(tmp_path, row(), row(config={"cache": "25%"}, mib_read_per_token=0.5))
    assert bars_of(figures["cache-0"]) == [[75, 75]]
    assert bars_of(figures["cache-1"]) == [[1.5, 0.5]]


def test_memory_and_its_plan(tmp_path: pathlib.Path) -> None:
    *stack, plan = drawn(tmp_path, row(swap_bytes=1 << 20))["memory-0"]["data"]
    assert [piece["x"] for piece in stack] == [[8], [4], [1]]
    assert (plan["x"], plan["marker"]["symbol"]) == ([10], "line-ns")


def sampled(start: str, *pss_mib: int, **changes: Any) -> Json:
    """A reading every half second, in which one page more had to be fetched."""
    readings = [
        {"t_ms": 500.0 * i, "pss": mib << 20, "major_faults": i, "cpu_c": 50.0 + i}
        for i, mib in enumerate(pss_mib)
    ]
    return run(start, samples=readings, **changes)


def test_memory_over_time(tmp_path: pathlib.Path) -> None:
    runs = [
        sampled("2026-11-25T07:00:00Z", 4, 6, 5),
        sampled("2026-11-25T07:01:00Z", 7, 8, 9, waited_s=30.0),
    ]
    one = row(runs=runs, samples_ns=[2_000_000_000] * 2)
    pss, faults = drawn(tmp_path, one)["memory-1"]["data"]
    # One after the other without the waiting, and a gap where a repetition ends.
    assert pss["x"] == faults["x"] == [0, 0.5, 1, 2, 2, 2.5, 3, 4]
    assert pss["y"] == [4, 6, 5, None, 7, 8, 9, None]
    assert faults["y"] == [0, 1, 2, None, 0, 1, 2, None]


def test_heat_on_one_clock(tmp_path: pathlib.Path) -> None:
    runs = [
        sampled("2026-11-25T07:00:10Z", 4, 6, waited_s=4.0),
        sampled("2026-11-25T07:00:20Z", 7, gate="timed_out", waited_s=6.0),
    ]
    runs[1]["exit"] = runs[1]["exit"] | {"cpu_c": 47.5, "thermal_status": 2}
    gate = {"limit_c": 40.0, "timeout_s": 6.0}
    one = row(runs=runs, regime={"gate": gate}, samples_ns=[2_000_000_000] * 2)
    figure = drawn(tmp_path, one)["heat-0"]
    cpu, skin, battery, lane, status = figure["data"]
    # From the begin of the first wait: entry, samples, exit of each.
    assert cpu["x"] == [4, 4, 4.5, 6, 14, 14, 16]
    assert cpu["y"] == [42, 50, 51, 42, 42, 50, 47.5]
    assert (skin["x"], skin["y"], battery["y"]) == ([4, 6, 14, 16], [33] * 4, [30] * 4)
    assert status["y"] == [0, 0, 0, 2]
    assert lane["x"] == [5, 15]
    assert ["in vain" in text for text in lane["hovertext"]] == [False, True]
    shapes = figure["layout"]["shapes"]
    waits = [(s["x0"], s["x1"]) for s in shapes if s.get("fillcolor") == "@waiting"]
    assert waits == [(0, 4), (8, 14)]
    assert [(s["x0"], s["x1"]) for s in shapes if s.get("fillcolor") == "@c0"] == [(4, 6), (14, 16)]
    assert [s["y0"] for s in shapes if s["type"] == "line"] == [40]


def test_energy_that_cannot_be_relied_on_is_hatched(tmp_path: pathlib.Path) -> None:
    rows = (
        row(joules_per_token=0.25, energy_reliable=True),
        row(config={"cache": "25%"}, joules_per_token=0.5, energy_reliable=False),
    )
    (bars,) = drawn(tmp_path, *rows)["energy-0"]["data"]
    assert bars["x"] == [0.25, 0.5]
    assert bars["marker"]["pattern"]["shape"] == ["", "/"]


def test_ratios_with_their_intervals(tmp_path: pathlib.Path) -> None:
    rows = (
        row(),
        row(config={"cache": "25%"}, samples_ts=[49.0, 50.0, 51.0]),
        row(config={"cache": "75%"}, samples_ts=[99.0, 101.0, 100.0]),
        row(config={"cache": "99%"}, samples_ts=[200.0]),
    )
    slower, alike, single = drawn(tmp_path, *rows)["comparison-0"]["data"]
    # scipy: 0.5 [0.47783, 0.52319]
    assert slower["x"] == [0.5]
    assert slower["error_x"]["arrayminus"] == [pytest.approx(0.0221666, rel=1e-4)]
    assert slower["error_x"]["array"] == [pytest.approx(0.0231949, rel=1e-4)]
    assert slower["marker"]["color"] == "@c1"
    assert alike["x"] == [pytest.approx(1.0001, abs=1e-4)]
    assert alike["error_x"]["array"][0] > 0.01
    # Filled is only what shows a difference.
    assert (alike["marker"]["color"], single["marker"]["color"]) == ("@paper", "@paper")
    assert (single["error_x"]["array"], single["error_x"]["arrayminus"]) == ([0], [0])
    assert "one repetition: no interval" in single["hovertext"][0].replace("<br>", " ")


@pytest.mark.parametrize(("low", "high"), [(1e-6, 1e-4), (0.5, 700.0), (1e5, 3e9)])
def test_ticks_are_written_in_full(low: float, high: float) -> None:
    axis: Json = {}
    logarithmic(axis, low, high)
    assert [float(text.replace(",", "")) for text in axis["ticktext"]] == axis["tickvals"]
    assert not any("e" in text for text in axis["ticktext"])
