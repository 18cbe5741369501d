# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The sizes that a configuration is said to have are those of the bundle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quantizations import COMPARED, Size, model_size, summarize
from moe_mobile.bundle import read_manifest
from moe_mobile.bundle.manifest import Memory
from moe_mobile.bundle.quantization import DEFAULT_QUANT, WHOLE_QUANTS
from moe_mobile.model.presets import PRESETS, RandomWeights
from moe_mobile.model.source import open_model
from tests.bundles import DemoMaker

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORDED: dict[str, Any] = json.loads((DOCS / "findings/data/quantizations.json").read_text())
# What a program has besides weights: its instructions and XNNPACK's graph.
LARGEST_REST = 32 << 10


def computed_and_found(bundle: Path, quant: str) -> tuple[Size, Memory]:
    """A model's size by its shape, and by its bundle; they agree."""
    size = model_size("demo", quant)
    manifest = read_manifest(bundle)
    facts = manifest.memory
    dense_programs = len(manifest.layers) + 1
    experts = len(manifest.moe_layers) * manifest.moe.num_experts
    assert size.embedding == facts.embedding_bytes
    assert 0 < facts.dense_bytes - size.dense - size.head < dense_programs * LARGEST_REST
    assert 0 < facts.experts_bytes - size.experts < experts * LARGEST_REST
    return size, facts


def test_sizes_of_a_model_are_those_of_its_bundle(demo_bundle: DemoMaker) -> None:
    computed_and_found(demo_bundle(), DEFAULT_QUANT)


@pytest.mark.slow
def test_a_quantization_saves_as_many_bytes_as_computed(demo_bundle: DemoMaker) -> None:
    computed, found = {}, {}
    for quant in COMPARED:
        computed[quant], found[quant] = computed_and_found(demo_bundle(quant), quant)
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


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_shows_the_sizes_of_each_preset(name: str) -> None:
    sizes = [model_size(RandomWeights(name), quant) for quant in COMPARED]
    assert [asdict(size) for size in sizes] == list(RECORDED["bytes"][name].values())
    cells = [(size.whole, size.dense + size.head, size.token) for size in sizes]
    shown = " | ".join(f"{part / 1e9:.2f}" for three in cells for part in three)
    assert f"| {name} | {shown} |" in (DOCS / "cli.md").read_text()


@pytest.mark.parametrize("case", RECORDED["speed"])
def test_the_page_shows_the_speeds_that_were_measured(case: str) -> None:
    one, (name, memory) = RECORDED["speed"][case], case.split(", ")
    layers = len(open_model(RandomWeights(name)).architecture.layers)
    found = summarize(one["decodes"], layers / RECORDED["layers"])
    assert found == {member: one[member] for member in found}
    cells = [f"{time:.0f} ms" for time in found["token_ms"].values()]
    cells += [f"{found['ratio']:.2f}", f"{min(found['ratios']):.2f} to {max(found['ratios']):.2f}"]
    where = {"resident": "all", "50 %": "half"}[memory]
    assert f"| {name} | {where} | {' | '.join(cells)} |" in (DOCS / "cli.md").read_text()


def test_the_pages_show_the_perplexities_that_were_measured() -> None:
    found = json.loads((DOCS / "findings/data/quality.json").read_text())["results"]
    reference, *bundles = found
    finding, page = ((DOCS / name).read_text() for name in ("findings/quality.md", "cli.md"))
    for one in bundles:
        change = f"{100 * (one['perplexity'] / reference['perplexity'] - 1):+.2f} %"
        assert f"| {one['perplexity']:.4f} | " in finding
        assert f" {100 * one['hit_rate']:.1f} % | {one['bytes'] / 1e6:.2f} |" in finding
        if one["name"] in WHOLE_QUANTS:
            assert f"| {one['bytes'] / 1e6:.2f} MB | {change} |" in page
        if one["name"] != "fp32":
            assert f" | {change} | " in finding
