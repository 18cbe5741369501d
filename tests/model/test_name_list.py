# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of tensors in a message."""

from __future__ import annotations

from moe_mobile.model.name_list import listed


def test_few_names_are_all_listed() -> None:
    names = [f"model.visual.blocks.{i}.weight" for i in range(20)]
    assert listed(names) == ", ".join(names)


def test_many_names_are_told_by_their_beginnings() -> None:
    names = [f"model.visual.blocks.{i}.weight" for i in range(21)] + ["scale"]
    assert listed(names) == "model.visual.blocks.* (21), scale"
    experts = [f"model.layers.{i}.mlp.experts.{j}.up" for i in (8, 9) for j in range(40)]
    assert listed(experts) == "model.layers.8.mlp.experts.* (40), model.layers.9.mlp.experts.* (40)"


def test_names_without_common_beginnings_are_counted() -> None:
    shown = listed([f"tensor_{i:02}" for i in range(25)])
    assert shown.startswith("tensor_00, tensor_01, ")
    assert shown.endswith("tensor_19, and 5 others")
