# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A runner that answers what is written here, so that rows can be worked out by hand."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from moe_mobile.bench import driver
from moe_mobile.bench.driver import BundleFacts
from moe_mobile.bench.measure import measure
from moe_mobile.bench.row import BenchTest, Row
from moe_mobile.bench.target import open_target
from moe_mobile.device.local import LocalDevice
from moe_mobile.runner import Runner
from moe_mobile.settings import EngineSettings

MIB = 1 << 20


def _token(phase: str, count: int, total: int, wait: int, hits: int, misses: int) -> dict[str, Any]:
    return {
        "token": 7, "phase": phase, "count": count, "total_ns": total, "dense_ns": total // 10,
        "attention_ns": total // 10, "expert_ns": total // 5, "wait_ns": wait,
        "router_ns": 0, "head_ns": total // 10, "hits": hits, "misses": misses,
        "bytes_read": misses * MIB, "dropped": 0,
        "slots_changed_by_routing": 0,
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


class Scripted(LocalDevice):
    """This machine with a runner that answers SAMPLES by their seed, and writes down questions."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.program = folder / "moe_runner"
        self.program.write_text(
            f"""#!{sys.executable}
import json, os, sys
samples = json.loads({json.dumps(json.dumps(SAMPLES))})
for line in sys.stdin:
    request = json.loads(line)
    with open({str(folder / "asked")!r}, "a") as asked:
        print(json.dumps([os.getpid(), request]), file=asked)
    answer = dict(id=request["id"], event="result")
    if request["command"] == "open":
        answer.update(settings=dict(precision="full") | request["settings"] | dict(threads=2),
                      bundle_hash="ab" * 32,
                      plan=dict(slots=7, num_experts=8, text="7 slots", total_bytes=7),
                      direct_io=True, fallbacks=[],
                      routing=dict(requested="exact", resolved="exact", note="", lossy=False),
                      load_ms=12.5,
                      executorch="1.5.1", moe_mobile="0.1.0", pid=os.getpid())
    elif request["command"] == "prepare":
        answer.update(packed_dir="", experts=0, bytes_written=0, already_prepared=True,
                      shards_deleted=0, bytes_deleted=0)
    elif request["command"] == "bench":
        sample = dict(samples[request["seed"] % 2])
        if not request["n_gen"]:
            sample.update(gen_ns=0, itl_ns=[], tokens=sample["tokens"][:1])
        if not request["n_prompt"]:
            sample.update(prompt_ns=0, tokens=sample["tokens"][1:])
        answer.update(samples=[sample])
    print(json.dumps(answer), flush=True)
"""
        )
        self.program.chmod(0o755)

    def _start_runner(self, cpus: Sequence[int] | None) -> Runner:
        return Runner(self.program)


def settings(**values: Any) -> EngineSettings:
    return EngineSettings().with_values(values)


def changed(row: Row, **members: Any) -> Row:
    return Row(row.data | members)


def rows_of(
    device: LocalDevice, facts: BundleFacts, rows: Sequence[driver.Cell], **protocol: Any
) -> list[Row]:
    protocol = {"repetitions": 2} | protocol
    return list(measure(open_target(device, facts), rows, driver.Protocol(**protocol)))


def row_of(device: LocalDevice, facts: BundleFacts, test: BenchTest, **protocol: Any) -> Row:
    (row,) = rows_of(device, facts, [(test, settings())], **protocol)
    return row


def asked(tmp_path: pathlib.Path) -> list[tuple[int, dict[str, Any]]]:
    return [tuple(json.loads(line)) for line in (tmp_path / "asked").read_text().splitlines()]
