# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The sizes that a configuration is said to have are those of the bundle."""

from __future__ import annotations

from benchmarks.quantizations import COMPARED, model_size, summarize
from moe_mobile.bundle import read_manifest
from tests.bundles import DemoMaker

# What a program has besides weights: its instructions and XNNPACK's graph.
LARGEST_REST = 32 << 10


def test_sizes_of_a_model_are_those_of_its_bundle(demo_bundle: DemoMaker) -> None:
    computed, found = {}, {}
    for quant in COMPARED:
        size = computed[quant] = model_size("demo", quant)
        manifest = read_manifest(demo_bundle(quant))
        facts = found[quant] = manifest.memory
        dense_programs = len(manifest.layers) + 1
        experts = len(manifest.moe_layers) * manifest.moe.num_experts
        assert size.embedding == facts.embedding_bytes
        assert 0 < facts.dense_bytes - size.dense - size.head < dense_programs * LARGEST_REST
        assert 0 < facts.experts_bytes - size.experts < experts * LARGEST_REST
    first, second = COMPARED
    more = {quant: size.dense + size.head for quant, size in computed.items()}
    by_weights = more[first] - more[second]
    by_files = found[first].dense_bytes - found[second].dense_bytes
    assert abs(by_files / by_weights - 1) < 0.02
    assert found[first].experts_bytes == found[second].experts_bytes
    assert computed[first].token - computed[second].token == by_weights


def test_times_of_a_whole_model_and_their_ratio() -> None:
    first, second = COMPARED

    def decodes(*layers: float) -> list[dict[str, list[float]]]:
        return [{"layers_ms": [ms, 2 * ms], "head_ms": [1.0, 3.0]} for ms in layers]

    # The fastest decode of each token counts: 4 and 8 ms, and 2 and 4 ms, of half of the layers.
    found = {first: decodes(4, 5, 7, 9), second: decodes(9, 3, 2, 9)}
    answer = summarize(found, 2)
    assert answer["token_ms"] == {first: 14, second: 8}
    assert answer["ratio"] == 8 / 14
    # Without the first round, which had the first's best, and without the second.
    assert answer["ratios"] == [8 / 23, 11 / 14]
