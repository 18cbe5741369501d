# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One share is the same number of experts in the lab, in a file of settings and in the engine."""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.errors import UsageError
from moe_mobile.routing.capacity import Capacity, parse_capacity, percent_of, share_text
from moe_mobile.routing.run import RoutingRun
from moe_mobile.tune.settings_file import Choice, read_settings, write_settings
from tests.tune.test_settings_file import CHOSEN, FILE, MEASURED


def test_capacities() -> None:
    assert parse_capacity("29%") == Capacity("29%", percent=29)
    assert parse_capacity("0" * 5000 + "7").of(60) == 7  # int() does not take as many digits
    assert parse_capacity("29%").of(100) == 29  # 28 with floating point
    assert [parse_capacity(text).of(60) for text in ("33%", "12.5%", "100%", "7")] == [19, 7, 60, 7]
    for text in ("", "0", "0%", "101%", "1.5", "-1", "half", "5 parts", "\u0663", "512MiB", "auto",
                 "9" * 5000):  # fmt: skip
        with pytest.raises(UsageError, match="invalid capacity"):
            parse_capacity(text)
    for text, why in (("200%", "more than all experts"), ("0.0%", "it would hold nothing")):
        with pytest.raises(UsageError, match=f"invalid capacity '{text}': {why}"):
            parse_capacity(text)
    assert percent_of(" 37.5% ") == 37.5
    assert percent_of("\udcff%") is None


@given(st.integers(1, 65536), st.data())
def test_a_share_is_so_many_experts(experts: int, data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, experts))
    assert parse_capacity(share_text(capacity, experts)).of(experts) == capacity


@given(
    percent=st.decimals(1, 100, places=2),
    layers=st.integers(1, 8),
    experts=st.integers(1, 64),
    pool=st.sampled_from(["layer", "global"]),
)
def test_the_lab_and_files_of_settings_have_one_rule(
    percent: Decimal,
    layers: int,
    experts: int,
    pool: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whole experts of each layer, rounded down."""
    text = f"{percent}%"
    capacity = parse_capacity(text).of(experts)
    assert capacity == math.floor(Fraction(percent) * experts / 100)
    if capacity == 0:
        return
    chosen = dataclasses.replace(CHOSEN, cache=share_text(capacity, experts))
    path = tmp_path_factory.getbasetemp() / "settings.json"
    write_settings(path, dataclasses.replace(FILE, choices=(Choice(chosen, MEASURED),)))
    again = read_settings(path).pick(text).settings.cache
    assert parse_capacity(again).of(experts) == capacity
    # The cache itself: after every expert has been used, it holds as many as it can.
    run = RoutingRun(experts=experts, layers=layers, top_k=1, capacity=capacity, pool=pool)
    for expert in range(experts):
        logits = np.zeros((1, experts), np.float32)
        logits[0, expert] = 1
        for layer in range(layers):
            run.route(layer, logits)
    assert run.cached().sum() == capacity * layers
