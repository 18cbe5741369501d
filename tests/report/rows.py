# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows as `bench` writes them, small enough to reckon with by hand, and what a page draws."""

from __future__ import annotations

import copy
import json
import pathlib
import re
from typing import Any

Json = dict[str, Any]

ROW: Json = {
    "model_type": "tiny 8da4w",
    "cpu_info": "A processor",
    "n_prompt": 0,
    "n_gen": 4,
    "n_depth": 0,
    "test_time": "2026-11-25T07:00:00Z",
    "avg_ts": 100.0,
    "stddev_ts": 2.0,
    "samples_ts": [98.0, 100.0, 102.0],
    "samples_ns": [40_000_000, 40_000_000, 39_000_000],
    "gen_ts": 100.0,
    "version": "0.1.0",
    "executorch_version": "1.5.1",
    "bundle_hash": "ab" * 32,
    "config": {"residency": "slots", "cache": "50%", "lanes": 2, "threads": 2, "routing": "exact"},
    "plan": {"total_bytes": 10 << 20},
    "itl_ns": [[9_000_000, 10_000_000, 11_000_000, 10_000_000]] * 3,
    "itl_p50_ms": 10.0,
    "itl_p95_ms": 11.0,
    "itl_p99_ms": 11.0,
    "hit_rate": 0.75,
    "mib_read_per_token": 1.5,
    "rss_anon_bytes": 8 << 20,
    "rss_file_bytes": 4 << 20,
    "swap_bytes": 0,
}


def row(**changes: Any) -> Json:
    made = copy.deepcopy(ROW)
    made["config"] |= changes.pop("config", {})
    return made | changes


def write(path: pathlib.Path, *rows: object) -> pathlib.Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def run(start: str, **changes: Any) -> Json:
    state = {"cpu_c": 42.0, "skin_c": 33.0, "battery_c": 30.0, "thermal_status": 0}
    return {"started_at": start, "waited_s": 0.0, "entry": state, "exit": state} | changes


def figures_of(text: str) -> dict[str, Json]:
    embedded = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert embedded is not None
    found: dict[str, Json] = json.loads(embedded[1])
    return found
