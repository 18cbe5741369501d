# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Bundles for the engine's tests, exported once per test run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_mobile.export import RandomWeights, export_bundle
from tests.engine.lowering import shared_templates
from tests.tiny import write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors only lose by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Case:
    """A tiny random model: a family and what differs from its tiny configuration."""

    family: str
    changes: dict[str, Any] = field(default_factory=dict)


CASES = {
    # Mixtral's tiny configuration has a sliding window of 12 positions.
    "mixtral": Case("mixtral"),
    # Nine query heads on three key-value heads, of a width that is no power of two.
    "mixtral-odd-heads": Case(
        "mixtral",
        {
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 20,
            "sliding_window": None,
        },
    ),
    "qwen2_moe": Case("qwen2_moe"),
    "qwen2_moe-normed": Case("qwen2_moe", {"norm_topk_prob": True}),
    "qwen3_moe": Case("qwen3_moe", {"tie_word_embeddings": False}),
    # The head is the embedding here, as in the tiny configuration.
    "qwen3_moe-dense-layer": Case("qwen3_moe", {"mlp_only_layers": [0], "norm_topk_prob": False}),
    "olmoe": Case("olmoe"),
}

CheckpointMaker = Callable[[str], Path]
BundleMaker = Callable[[str, str], Path]
DemoMaker = Callable[[str], Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointMaker:
    """A function that returns the checkpoint of one of the ``CASES``."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            case = CASES[name]
            folder = tmp_path_factory.mktemp(name)
            made[name] = write_checkpoint(folder, case.family, **case.changes)
        return made[name]

    return make


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: CheckpointMaker) -> BundleMaker:
    """A function that returns the bundle of one of the ``CASES`` in a quantization."""
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, quant: str) -> Path:
        if (name, quant) not in made:
            out = tmp_path_factory.mktemp("bundles") / f"{name}-{quant}"
            with shared_templates():
                made[name, quant] = export_bundle(checkpoint(name), out, quant, max_batch=64)
        return made[name, quant]

    return make


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> DemoMaker:
    """A function that returns the demo model's bundle in a quantization."""
    made: dict[str, Path] = {}

    def make(quant: str) -> Path:
        if quant not in made:
            out = tmp_path_factory.mktemp("demo") / quant
            with shared_templates():
                made[quant] = export_bundle("demo", out, quant)
        return made[quant]

    return make


@pytest.fixture(scope="session")
def large_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of OLMoE's dimensions with a small vocabulary: 64 experts of 3.4 MiB in 8da4w."""
    out = tmp_path_factory.mktemp("large") / "bundle"
    source = RandomWeights("OLMoE-1B-7B", layers=1, vocab_size=512)
    with shared_templates():
        return export_bundle(source, out, "8da4w", max_batch=64)
