# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The drawing of `quality --plot` says which routings are lossy."""

from __future__ import annotations

from moe_mobile.quality.plot import draw_quality
from tests.tune.test_tune_choice import a_row


def test_the_legend_marks_lossy_routings() -> None:
    rows = [
        a_row("exact", loads=1.5),
        a_row("cache-prior:0.2,J=1", 0.01),
        a_row("exact+drop-cold:0.5", 0.02, dropped=20),
        a_row("exact", 0.02, expert_precision="low"),
    ]
    names = [points["name"].partition(": ")[2] for points in draw_quality(rows, "m")["data"]]
    assert sorted(names) == [
        "cache-prior (lossy)",
        "drop-cold (lossy)",
        "exact",
        "exact, precision low (lossy)",
    ]
