# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The drawing of `quality --plot` says which routings are lossy."""

from __future__ import annotations

import pathlib

from moe_mobile.quality.plot import draw_quality
from tests.tune.test_tune_choice import a_row


def test_the_legend_marks_what_is_lossy(tmp_path: pathlib.Path) -> None:
    rows = [
        a_row("exact", loads=1.5),
        a_row("cache-prior:0.2,J=1", 0.01),
        a_row("exact+drop-cold:0.5", 0.02, dropped=20),
    ]
    draw_quality(rows, "m").savefig(tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for name in ("exact", "cache-prior (lossy)", "drop-cold (lossy)"):
        assert f"<!-- {name} -->" in drawn
    assert "exact (lossy)" not in drawn
