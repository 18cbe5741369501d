# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Bundles that only the engine's tests need, exported once per test run; see tests/bundles.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_mobile.export import RandomWeights, export_bundle
from tests.bundles import OnceMaker


@pytest.fixture(scope="session", autouse=True)
def tiny_models(one_thread: None, lowered_once: None) -> None:
    """What keeps exports of tiny models short."""


@pytest.fixture(scope="session")
def large_bundle(made_once: OnceMaker) -> Path:
    """One layer of Qwen1.5-MoE-A2.7B's dimensions with a small vocabulary: 60 experts of 4.6 MiB
    in 8da4w, and a shared expert four times as wide."""
    source = RandomWeights("Qwen1.5-MoE-A2.7B", layers=1, vocab_size=512)
    return made_once("qwen1.5-layer", lambda out: export_bundle(source, out, "8da4w"))
