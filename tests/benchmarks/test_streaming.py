# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What `make bench` concludes from its measurements."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.streaming import missed, report, summarize

RECORDED = Path(__file__).resolve().parents[2] / "docs/findings/data/streaming.json"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text("utf-8"))
    return found


def test_the_recorded_answers_follow_from_the_raw_data(recorded: dict[str, Any]) -> None:
    assert summarize(recorded["raw"]) == recorded["answers"]
    assert missed(recorded["answers"]) == []


def test_the_finding_shows_what_was_recorded(recorded: dict[str, Any]) -> None:
    finding = (RECORDED.parent.parent / "streaming.md").read_text("utf-8")
    assert report(recorded["answers"]) in finding


@pytest.mark.parametrize("letter", ["a", "b", "c"])
def test_a_missed_limit_is_named(recorded: dict[str, Any], letter: str) -> None:
    raw = copy.deepcopy(recorded["raw"])
    if letter == "a":
        _scale(raw["misses"], "slot_miss_ns", 2)
    elif letter == "b":
        _scale(raw["misses"], "program_load_ns", 0.001)
    else:
        for one in raw["rounds"]:
            _scale(one["single"], "samples_ns", 0.5)
    assert missed(summarize(raw)) == [letter]


def _scale(values: dict[str, Any], name: str, factor: float) -> None:
    values[name] = [value * factor for value in values[name]]
