# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a bundle's quantization is called where its model is named."""

from __future__ import annotations

import pytest

from moe_mobile.quality.score import ScoredModel
from moe_mobile.routing.facts import MoeFacts
from moe_mobile.routing.trace_engine import computed_in
from tests.bundle.samples import sample


@pytest.mark.parametrize("seed", range(20))
def test_a_bundle_is_called_by_its_whole_quantization(seed: int) -> None:
    manifest, _ = sample(seed)
    parts = manifest.quantization
    model = ScoredModel(
        **vars(MoeFacts.of_bundle(manifest)),
        source="engine",
        source_id="",
        identity="",
        vocab_size=1,
        context=1,
    )
    assert model.precision == parts.name
    assert computed_in(manifest, "full") == parts.name
    low = computed_in(manifest, "low").split("+")
    assert low[0] == manifest.precisions[-1]
    assert {*low[1:]} <= {parts.dense, parts.head}
    both = "+".join(manifest.precisions)
    assert computed_in(manifest, "ranks:1") == f"{both} ranks:1"


def test_a_checkpoint_is_called_by_its_type() -> None:
    model = ScoredModel(
        "demo", (0,), 4, 2, precisions=("bfloat16",), source="transformers", source_id="",
        identity="", vocab_size=1, context=1,
    )  # fmt: skip
    assert model.precision == "bfloat16"
