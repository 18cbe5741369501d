# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The bar on a terminal, and the lines in a log."""

from __future__ import annotations

import io
import sys

import pytest

from moe_mobile.cli import progress
from moe_mobile.cli.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_work_that_was_done_before_does_not_count_for_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar() as bar:
        bar("export", 5000, 6144, "embedding")
    drawn = terminal.getvalue().split("\r")
    # It begins there, and has no rate yet.
    assert "5000/6144" in drawn[1]
    assert "? experts/s" in drawn[1]


def test_a_line_in_a_log_names_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with ProgressBar() as bar:
        bar("export", 5, 16, "layer 0, expert 5")
        bar("load", 1, 2)
    assert log.getvalue().splitlines() == [
        "exporting: 5 of 16 experts layer 0, expert 5",
        "loading: 1 of 2",
    ]
