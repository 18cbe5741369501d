# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows worked out by hand from what a runner answers, and what it is asked."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest

from moe_mobile import errors
from moe_mobile.bench.driver import BundleFacts, check_fits, grid
from moe_mobile.bench.router_trace import RouterTrace
from moe_mobile.bench.row import BenchTest
from moe_mobile.device.local import LocalDevice
from tests.bench.scripted import MIB, asked, row_of, rows_of, settings


def test_a_decode_row_by_hand(facts: BundleFacts, device: LocalDevice) -> None:
    row = row_of(device, facts, BenchTest(0, 2))
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
    assert row.wait_share == pytest.approx(180 / 600)
    assert (row.ttft_ms, row.prompt_ts, row.gen_ts) == (None, None, 7.5)
    assert (row.rss_anon_bytes, row.rss_file_bytes) == (12 * MIB, 5 * MIB)
    assert (row.peak_rss_bytes, row.major_faults) == (21 * MIB, 2)


def test_a_prompt_row_by_hand(facts: BundleFacts, device: LocalDevice) -> None:
    row = row_of(device, facts, BenchTest(8, 0))
    assert row.samples_ts == [4.0, 8.0]
    assert (row.avg_ts, row.prompt_ts, row.gen_ts) == (6.0, 6.0, None)
    assert row.ttft_ms == pytest.approx(1510.0)
    assert row.ttft_stddev_ms == pytest.approx(math.sqrt(2) * 500)
    assert (row.itl_p50_ms, row.itl_ns) == (None, [[], []])
    assert row.hit_rate == 40 / 80
    assert row.mib_read_per_token == 40 / 16
    assert row.wait_share == 0.25


def test_a_combined_row_counts_both(facts: BundleFacts, device: LocalDevice) -> None:
    row = row_of(device, facts, BenchTest(8, 2))
    assert row.samples_ns == [2_200_000_000, 1_400_000_000]
    assert row.samples_ts == pytest.approx([10 / 2.2, 10 / 1.4])
    assert (row.prompt_ts, row.gen_ts) == (6.0, 7.5)
    assert row.test.name == "pp8+tg2"
    assert row.hit_rate == 8 / 16


def test_one_repetition_has_no_spread(facts: BundleFacts, device: LocalDevice) -> None:
    row = row_of(device, facts, BenchTest(8, 2), repetitions=1)
    assert (row.stddev_ns, row.stddev_ts, row.ttft_stddev_ms) == (0, 0.0, 0.0)


def test_replayed_logits_are_flagged(facts: BundleFacts, device: LocalDevice) -> None:
    said = {"name": "qwen.safetensors", "sha256": "c" * 64, "source": "synthetic", "tokens": 9}
    trace = RouterTrace(np.zeros((9, 2, 4), np.float32), said)
    row = row_of(device, facts, BenchTest(0, 2), router_trace=trace)
    flag = "router logits replayed from qwen.safetensors (synthetic): the output means nothing"
    assert flag in row.flags
    assert flag not in row_of(device, facts, BenchTest(0, 2)).flags


def test_what_is_resident_is_measured_once_for_all_sizes() -> None:
    caches = [
        settings(cache=size, routing=routing)
        for size in ("25%", "50%")
        for routing in ("exact", "cache-prior:0.2,J=2")
    ]
    rows = grid(
        [BenchTest(0, 2)], caches, residencies=["slots", "resident"], lanes=[1], threads=[None]
    )
    requests = [one.as_request() for _, one in rows]
    found = [(one["residency"], one["cache"], one["routing"]) for one in requests]
    assert found == [
        ("slots", "25%", "exact"), ("slots", "25%", "cache-prior:0.2,J=2"),
        ("slots", "50%", "exact"), ("slots", "50%", "cache-prior:0.2,J=2"),
        ("resident", "25%", "exact"), ("resident", "25%", "cache-prior:0.2,J=2"),
    ]  # fmt: skip


def test_each_row_has_a_process_and_its_settings(
    facts: BundleFacts, device: LocalDevice, tmp_path: pathlib.Path
) -> None:
    rows = grid(
        [BenchTest(8, 0), BenchTest(0, 2)],
        [settings(cache=cache, context=64) for cache in ("25%", "50%")],
        residencies=["slots"],
        lanes=[1],
        threads=[None, 2],
    )
    results = rows_of(device, facts, rows, repetitions=3, warmup=0, seed=9)
    questions = asked(tmp_path)
    assert len(results) == len(rows) == 8
    assert [request["command"] for _, request in questions] == (
        ["prepare"] + ["open", "bench", "bench", "bench"] * 8
    )
    assert len({pid for pid, _ in questions}) == 9
    opened = [request for _, request in questions if request["command"] == "open"]
    assert [request["settings"]["cache"] for request in opened] == ["25%"] * 4 + ["50%"] * 4
    assert opened[0]["settings"] == {
        "cache": "25%", "residency": "slots", "routing": "exact", "pool": "auto",
        "eviction": "lru", "initial_cache": "auto", "lanes": 1, "context": 64,
        "precision": "full", "allow_below_cycle": False, "overlap": True, "direct": True,
    }  # fmt: skip
    assert opened[2]["settings"]["threads"] == 2
    benched = [request for _, request in questions if request["command"] == "bench"]
    tests = [(8, 0)] * 3 + [(0, 2)] * 3
    assert [(r["n_prompt"], r["n_gen"]) for r in benched] == tests * 4
    assert [r["seed"] for r in benched] == [9, 10, 11] * 8
    assert {(r["repetitions"], r["warmup"]) for r in benched} == {(1, False)}
    # Without a wish, the context is what the test needs, as in llama-bench; the warm-up has
    # tokens of its own.
    row_of(device, facts, BenchTest(8, 2))
    *_, opened_last, warmup, first, second = asked(tmp_path)
    assert opened_last[1]["settings"]["context"] == 10
    assert [request["seed"] for _, request in (warmup, first, second)] == [2, 0, 1]
    row_of(device, facts, BenchTest(8, 2), warmup=3)
    seeds = [request["seed"] for _, request in asked(tmp_path)[-5:]]
    assert seeds == [2, 3, 4, 0, 1]


def test_a_row_leaves_out_the_profile(facts: BundleFacts, device: LocalDevice) -> None:
    profile = {"initial_cache": "profile", "cache_profile": {0: [3, 1]}}
    (row,) = rows_of(device, facts, [(BenchTest(0, 2), settings(**profile))])
    assert row.config["initial_cache"] == "profile"
    assert "cache_profile" not in row.config


def test_interleaved_rows_take_turns_there_and_back(
    facts: BundleFacts, device: LocalDevice, tmp_path: pathlib.Path
) -> None:
    rows = [(BenchTest(0, 2), settings(cache=cache)) for cache in ("25%", "50%", "75%")]
    results = rows_of(device, facts, rows, repetitions=3, warmup=0, interleave=True)
    opened = [request for _, request in asked(tmp_path) if request["command"] == "open"]
    turns = [request["settings"]["cache"] for request in opened]
    there, back = ["25%", "50%", "75%"], ["75%", "50%", "25%"]
    assert turns == there + back + there
    # One engine is open at a time, and every repetition r has the same tokens in all rows.
    assert len({pid for pid, _ in asked(tmp_path)}) == 1 + 9
    seeds = [request["seed"] for _, request in asked(tmp_path) if request["command"] == "bench"]
    assert seeds == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [result.config["cache"] for result in results] == there
    assert {result.regime["order"] for result in results} == {"interleaved"}
    for result in results:
        assert result.samples_ns == [200_000_000, 400_000_000, 200_000_000]
        starts = [run["start_ms"] for run in result.runs]
        assert starts == sorted(starts)


def test_a_test_longer_than_the_context_is_refused(facts: BundleFacts) -> None:
    check_fits([BenchTest(1000, 24), BenchTest(0, 1024)], facts, None)
    with pytest.raises(errors.UsageError, match=r"needs 1025 positions.*has 1024"):
        check_fits([BenchTest(1000, 25)], facts, None)
    with pytest.raises(errors.UsageError, match=r"tg33 needs 33.*chosen context has 32"):
        check_fits([BenchTest(0, 33)], facts, 32)
    for test, context, setting in (
        (BenchTest(0, 33), 32, "context"),
        (BenchTest(0, 1025), None, "n_gen"),
        (BenchTest(1025, 0), None, "n_prompt"),
        (BenchTest(1000, 25), None, "prompt_gen"),
    ):
        with pytest.raises(errors.UsageError) as caught:
            check_fits([test], facts, context)
        assert (caught.value.setting, caught.value.file) == (setting, None)
