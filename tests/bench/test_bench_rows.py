# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows worked out by hand from what a runner answers, and how they are written."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
import sys
from typing import Any

import pytest

from moe_mobile import errors
from moe_mobile.bench.driver import BundleFacts, Settings, check_fits, grid, run_test
from moe_mobile.bench.plot import check_plot, plot_results, token_parts
from moe_mobile.bench.render import FORMATS, make_renderer
from moe_mobile.bench.results import BenchResult, BenchTest

_LLAMA_BENCH = (
    "build_commit build_number cpu_info gpu_info backends model_filename model_type model_size "
    "model_n_params n_batch n_ubatch n_threads n_prompt n_gen n_depth test_time avg_ns stddev_ns "
    "avg_ts stddev_ts samples_ns samples_ts"
)
LLAMA_BENCH_MEMBERS = set(_LLAMA_BENCH.split())

MIB = 1 << 20


def _token(phase: str, count: int, total: int, wait: int, hits: int, misses: int) -> dict[str, Any]:
    return {
        "phase": phase, "count": count, "total_ns": total, "dense_ns": total // 10,
        "attention_ns": total // 10, "expert_ns": total // 5, "wait_ns": wait,
        "router_ns": 0, "head_ns": total // 10, "hits": hits, "misses": misses,
        "bytes_read": misses * MIB, "bytes_wasted": MIB // 2, "slots_changed_by_routing": 0,
    }  # fmt: skip


SAMPLES: list[dict[str, Any]] = [
    {
        "prompt_ns": 2_000_000_000,
        "ttft_ns": 2_010_000_000,
        "gen_ns": 200_000_000,
        "itl_ns": [150_000_000, 50_000_000],
        "tokens": [
            _token("prefill", 8, 2_000_000_000, 500_000_000, 10, 30),
            _token("decode", 1, 150_000_000, 60_000_000, 1, 3),
            _token("decode", 1, 50_000_000, 20_000_000, 3, 1),
        ],
        "memory": {
            "rss_anon": 10 * MIB, "rss_file": 5 * MIB, "rss": 15 * MIB,
            "peak_rss": 20 * MIB, "swap": 0, "major_faults": 1,
        },
    },
    {
        "prompt_ns": 1_000_000_000,
        "ttft_ns": 1_010_000_000,
        "gen_ns": 400_000_000,
        "itl_ns": [300_000_000, 100_000_000],
        "tokens": [
            _token("prefill", 8, 1_000_000_000, 250_000_000, 30, 10),
            _token("decode", 1, 300_000_000, 100_000_000, 0, 4),
            _token("decode", 1, 100_000_000, 0, 4, 0),
        ],
        "memory": {
            "rss_anon": 12 * MIB, "rss_file": 4 * MIB, "rss": 16 * MIB,
            "peak_rss": 21 * MIB, "swap": 0, "major_faults": 2,
        },
    },
]  # fmt: skip


@pytest.fixture
def facts(tmp_path: pathlib.Path) -> BundleFacts:
    return BundleFacts(tmp_path, "qwen3_moe 8da4w", 11 * MIB, 8_490_000, 256, 1024, "XNNPACK")


@pytest.fixture
def runner(tmp_path: pathlib.Path) -> pathlib.Path:
    """A runner that answers SAMPLES and writes down what it was asked."""
    path = tmp_path / "moe_runner"
    path.write_text(
        f"""#!{sys.executable}
import json, os, sys
samples = json.loads({json.dumps(json.dumps(SAMPLES))})
for line in sys.stdin:
    request = json.loads(line)
    with open({str(tmp_path / "asked")!r}, "a") as asked:
        print(json.dumps([os.getpid(), request]), file=asked)
    answer = dict(id=request["id"], event="result")
    if request["command"] == "open":
        answer.update(settings=dict(request["settings"]), threads=2, bundle_hash="ab" * 32,
                      plan=dict(slots=7), direct_io=True, fallbacks=[], load_ms=12.5)
    else:
        answer.update(samples=samples)
        if not request["n_gen"]:
            for sample in samples:
                sample.update(gen_ns=0, itl_ns=[], tokens=sample["tokens"][:1])
        if not request["n_prompt"]:
            for sample in samples:
                sample.update(tokens=sample["tokens"][1:])
    print(json.dumps(answer), flush=True)
"""
    )
    path.chmod(0o755)
    return path


def _asked(tmp_path: pathlib.Path) -> list[tuple[int, dict[str, Any]]]:
    return [tuple(json.loads(line)) for line in (tmp_path / "asked").read_text().splitlines()]


def test_a_decode_row_by_hand(facts: BundleFacts, runner: pathlib.Path) -> None:
    row = run_test(BenchTest(0, 2), Settings(), facts, runner_binary=runner)
    assert row.samples_ns == [200_000_000, 400_000_000]
    assert row.samples_ts == [10.0, 5.0]
    assert (row.avg_ns, row.avg_ts) == (300_000_000, 7.5)
    assert row.stddev_ns == round(math.sqrt(2) * 1e8)
    assert row.stddev_ts == pytest.approx(math.sqrt(12.5))
    assert row.itl_ns == [[150_000_000, 50_000_000], [300_000_000, 100_000_000]]
    # Of 50, 100, 150 and 300 ms: ranks 2, 4 and 4.
    assert (row.itl_p50_ms, row.itl_p95_ms, row.itl_p99_ms) == (100.0, 300.0, 300.0)
    assert row.hit_rate == 8 / 16
    assert row.mib_read_per_token == 8 / 4
    assert row.mib_wasted_per_token == 0.5
    assert row.wait_share == pytest.approx(180 / 600)
    assert (row.ttft_ms, row.prompt_ts, row.gen_ts) == (None, None, 7.5)
    assert (row.rss_anon_bytes, row.rss_file_bytes) == (12 * MIB, 5 * MIB)
    assert (row.peak_rss_bytes, row.major_faults) == (21 * MIB, 2)


def test_a_prompt_row_by_hand(facts: BundleFacts, runner: pathlib.Path) -> None:
    row = run_test(BenchTest(8, 0), Settings(), facts, runner_binary=runner)
    assert row.samples_ts == [4.0, 8.0]
    assert (row.avg_ts, row.prompt_ts, row.gen_ts) == (6.0, 6.0, None)
    assert row.ttft_ms == pytest.approx(1510.0)
    assert row.ttft_stddev_ms == pytest.approx(math.sqrt(2) * 500)
    assert (row.itl_p50_ms, row.itl_ns) == (None, [[], []])
    assert row.hit_rate == 40 / 80
    assert row.mib_read_per_token == 40 / 16
    assert row.wait_share == 0.25


def test_a_combined_row_counts_both(facts: BundleFacts, runner: pathlib.Path) -> None:
    row = run_test(BenchTest(8, 2), Settings(), facts, runner_binary=runner)
    assert row.samples_ns == [2_200_000_000, 1_400_000_000]
    assert row.samples_ts == pytest.approx([10 / 2.2, 10 / 1.4])
    assert (row.prompt_ts, row.gen_ts) == (6.0, 7.5)
    assert row.test.name == "pp8+tg2"
    assert row.hit_rate == 8 / 16


def test_one_repetition_has_no_spread(facts: BundleFacts, runner: pathlib.Path) -> None:
    runner.write_text(runner.read_text().replace("samples=samples)", "samples=samples[:1])"))
    row = run_test(BenchTest(8, 2), Settings(), facts, runner_binary=runner)
    assert (row.stddev_ns, row.stddev_ts, row.ttft_stddev_ms) == (0, 0.0, 0.0)


def test_each_row_has_a_process_and_its_settings(
    facts: BundleFacts, runner: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    rows = grid(
        [BenchTest(8, 0), BenchTest(0, 2)],
        Settings(context=64),
        caches=["25%", "50%"],
        residencies=["slots"],
        lanes=[1],
        threads=[None, 2],
    )
    results = [
        run_test(test, settings, facts, runner_binary=runner, repetitions=3, warmup=False, seed=9)
        for test, settings in rows
    ]
    asked = _asked(tmp_path)
    assert len(results) == len(rows) == 8
    assert len({pid for pid, _ in asked}) == 8
    opened = [request for _, request in asked if request["command"] == "open"]
    assert [request["settings"]["cache"] for request in opened] == ["25%"] * 4 + ["50%"] * 4
    assert opened[0]["settings"] == {
        "cache": "25%", "residency": "slots", "routing": "exact", "lanes": 1, "context": 64,
        "allow_below_cycle": False,
    }  # fmt: skip
    assert opened[2]["settings"]["threads"] == 2
    # Without a wish, the context is what the test needs, as in llama-bench.
    run_test(BenchTest(8, 2), Settings(), facts, runner_binary=runner)
    assert _asked(tmp_path)[-2][1]["settings"]["context"] == 10
    benched = [request for _, request in asked if request["command"] == "bench"]
    assert [(r["n_prompt"], r["n_gen"]) for r in benched] == [(8, 0), (0, 2)] * 4
    assert {(r["repetitions"], r["warmup"], r["seed"]) for r in benched} == {(3, False, 9)}


def test_a_test_longer_than_the_context_is_refused(facts: BundleFacts) -> None:
    check_fits([BenchTest(1000, 24), BenchTest(0, 1024)], facts, None)
    with pytest.raises(errors.UsageError, match=r"needs 1025 positions.*has 1024"):
        check_fits([BenchTest(1000, 25)], facts, None)
    with pytest.raises(errors.UsageError, match=r"tg33 needs 33.*chosen context has 32"):
        check_fits([BenchTest(0, 33)], facts, 32)


@pytest.fixture
def results(facts: BundleFacts, runner: pathlib.Path) -> list[BenchResult]:
    tests = [BenchTest(8, 0), BenchTest(0, 2)]
    return [run_test(test, Settings(), facts, runner_binary=runner) for test in tests]


def _written(format: str, results: list[BenchResult], *, tokens: bool = False) -> str:
    out = io.StringIO()
    renderer = make_renderer(format, out, tokens=tokens)
    renderer.begin([(result.test, Settings(**result.config)) for result in results])
    for result in results:
        renderer.row(result)
    renderer.end()
    return out.getvalue()


def test_json_has_llama_bench_members_and_ours(results: list[BenchResult]) -> None:
    rows = json.loads(_written("json", results))
    assert [row["n_prompt"] for row in rows] == [8, 0]
    for row in rows:
        assert set(row) >= LLAMA_BENCH_MEMBERS
        assert row["bundle_hash"] == "ab" * 32
        assert row["config"]["cache"] == "50%"
        assert "tokens" not in row
    assert rows[0]["ttft_ms"] == pytest.approx(1510.0)
    assert json.loads(_written("json", [])) == []


def test_json_lines_are_the_same_rows(results: list[BenchResult]) -> None:
    lines = _written("jsonl", results).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(_written("json", results))


def test_tokens_are_written_where_asked_for(results: list[BenchResult]) -> None:
    rows = json.loads(_written("json", results, tokens=True))
    assert rows[1]["tokens"][0][0]["wait_ns"] == 60_000_000


def test_csv_has_a_column_per_scalar(results: list[BenchResult]) -> None:
    rows = list(csv.DictReader(io.StringIO(_written("csv", results))))
    assert [float(row["avg_ts"]) for row in rows] == [6.0, 7.5]
    assert json.loads(rows[0]["config"])["lanes"] == 2
    assert rows[1]["ttft_ms"] == ""
    assert "samples_ns" not in rows[0]


def test_markdown_is_a_table(results: list[BenchResult]) -> None:
    lines = _written("md", results).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert len({len(row) for row in cells}) == 1
    header, _, prompt, decode = cells
    assert "lanes" not in header
    assert dict(zip(header, prompt, strict=True))["t/s"] == "6.00 ± 2.83"
    named = dict(zip(header, decode, strict=True))
    assert (named["test"], named["t/s"], named["hit %"]) == ("tg2", "7.50 ± 3.54", "50.0")
    assert (named["ttft ms"], named["p95 ms"], named["wait %"]) == ("-", "300.00", "30.0")
    assert (named["size"], named["params"]) == ("11.00 MiB", "8.49 M")
    assert "O_DIRECT" in lines[5]


def test_markdown_shows_settings_that_differ(results: list[BenchResult]) -> None:
    out = io.StringIO()
    make_renderer("md", out).begin([(BenchTest(0, 2), Settings(lanes=4, residency="programs"))])
    assert "lanes" in out.getvalue()
    assert "residency" in out.getvalue()
    assert "routing" not in out.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_rows_appear_as_they_are_measured(results: list[BenchResult], format: str) -> None:
    out = io.StringIO()
    renderer = make_renderer(format, out)
    renderer.begin([(result.test, Settings()) for result in results])
    sizes = []
    for result in results:
        renderer.row(result)
        sizes.append(len(out.getvalue()))
    assert 0 < sizes[0] < sizes[1]


def test_parts_of_a_token_add_up(results: list[BenchResult]) -> None:
    parts = token_parts(results[1])
    assert {len(values) for values in parts.values()} == {4}
    assert parts["wait"] == [60.0, 20.0, 100.0, 0.0]
    totals = [sum(values) for values in zip(*parts.values(), strict=True)]
    assert totals == pytest.approx([150.0, 50.0, 300.0, 100.0])


def test_a_plot_is_drawn(results: list[BenchResult], tmp_path: pathlib.Path) -> None:
    plot_results(results, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<path") > 7
    with pytest.raises(errors.UsageError, match="nothing was decoded"):
        plot_results(results[:1], tmp_path / "plot.png")


def test_a_plot_of_unknown_type_is_refused_before_measuring() -> None:
    with pytest.raises(errors.UsageError, match=r"\.png"):
        check_plot("plot.txt")


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(errors.UnsupportedError, match="pip install matplotlib"):
        check_plot("plot.png")
