# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The plan's total is what the process takes at any moment, and closing an engine gives it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_mobile.runner import Runner
from tests.engine.native import peak_rss_anon, rss_anon

MIB = 2**20

# Of another allocator, which may keep more.
SPARE = 4 * MIB


@pytest.mark.parametrize(
    ("cache", "residency"),
    [("15%", "slots"), ("50%", "slots"), ("50%", "programs"), ("100%", "resident")],
)
def test_memory_stays_within_the_plan(large_bundle: Path, cache: str, residency: str) -> None:
    settings: dict[str, Any] = {
        "cache": cache,
        "residency": residency,
        "threads": 2,
        "context": 1024,
    }
    with Runner() as runner:
        before = rss_anon(runner.pid)
        with peak_rss_anon(runner.pid) as opening:
            info = runner.request("open", bundle=str(large_bundle), settings=settings)
        opened = rss_anon(runner.pid) - before
        with peak_rss_anon(runner.pid) as using:
            runner.request("score", token_ids=[(37 * i) % 512 for i in range(24)])
            # More than a batch: no program takes more memory than for its largest number of rows.
            runner.request(
                "generate", token_ids=[(41 * i) % 512 for i in range(600)], max_new_tokens=8
            )
        used = rss_anon(runner.pid) - before
    peaks = [peak[0] - before for peak in (opening, using)]
    plan = info["plan"]
    measured = (opened, used, *peaks)
    print(cache, residency, plan["total_bytes"] / MIB, *(bytes / MIB for bytes in measured))
    # The experts dominate, so that the contract is about them.
    assert plan["slots"] * plan["slot_bytes"] > 0.4 * plan["total_bytes"] or cache == "15%"
    assert plan["slots"] * plan["slot_bytes"] <= plan["experts_budget_bytes"]
    assert max(measured) <= plan["total_bytes"] + SPARE
    slots = plan["slots"] * plan["slot_bytes"]
    # The plan must not promise far more than is taken either.
    assert used >= 0.9 * slots
    # Slots are made when they are first used: an answer that needs few of them does not wait.
    if residency == "slots":
        assert opened <= plan["total_bytes"] - slots + 2 * plan["slot_bytes"] + SPARE


def test_opening_many_times_leaves_no_memory_behind(demo: Path) -> None:
    settings = {"threads": 1, "context": 64, "cache": "50%"}
    with Runner() as runner:
        for _ in range(20):
            runner.request("open", bundle=str(demo), settings=settings)
        before = rss_anon(runner.pid)
        for _ in range(60):
            runner.request("open", bundle=str(demo), settings=settings)
        # XNNPACK keeps 1 KiB for each name of a slot's file: names are used again.
        assert rss_anon(runner.pid) - before < 60 * 16 * 1024
