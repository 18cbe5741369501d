# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of the engine, of transformers layer by layer and of transformers token by token agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moe_mobile.base.progress import silent
from moe_mobile.quality.engine import EngineSource
from moe_mobile.quality.score import Cache, Scorer, SequenceScore
from moe_mobile.quality.transformers_source import TransformersSource
from tests.bundles import BundleMaker, CheckpointMaker
from tests.oracles.logits import logits_of
from tests.tiny import load_checkpoint, tiny_prompt

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe-dense-layer", "olmoe", "lfm2_moe")
# Of two experts used of eight. With a dense layer before it, ``first=1`` still changes layer 1.
ROUTINGS = (
    "exact",
    "cache-prior:0.4",
    "cache-prior:0.5,J=0,first=1",
    "max-rank:5,J=1",
    "cumulative:0.7",
    "exact+drop-cold:0.8",
    "cache-prior:0.2,J=1+drop-cold:0.7",
)
# What is promised for the engine; sums of float32 in another order.
TOLERANCE = 1e-3
IDS = tiny_prompt(72)
# Two sequences: the second must know nothing of the first.
CONTEXT = 40


@dataclass(frozen=True)
class Counts:
    hits: int
    misses: int
    dropped: int
    changed: int


@dataclass(frozen=True, eq=False)
class Scored:
    values: NDArray[np.float64]
    counts: list[Counts]


def scored(scorer: Scorer, cache: Cache, ids: Sequence[int] = IDS) -> Scored:
    """The text in two sequences."""
    _, scoring = scorer.begin(cache)
    with scoring as score:
        parts = [score(part, silent) for part in (ids[:CONTEXT], ids[CONTEXT:])]
    values = np.concatenate([part.log_probabilities for part in parts])
    return Scored(values, [counts(part) for part in parts])


def counts(score: SequenceScore) -> Counts:
    return Counts(score.hits, score.misses, score.dropped, score.changed)


def plain_values(checkpoint: Path) -> NDArray[np.float64]:
    """Log-probabilities of the model itself, without any of our routing."""
    model = load_checkpoint(checkpoint)
    parts = []
    for ids in (IDS[:CONTEXT], IDS[CONTEXT:]):
        logits = logits_of(model, ids).astype(np.float64)[:-1]
        logits -= logits.max(1, keepdims=True)
        picked = logits[np.arange(len(logits)), ids[1:]]
        parts.append(picked - np.log(np.exp(logits).sum(1)))
    return np.concatenate(parts)


@pytest.mark.parametrize("name", [*FAMILIES, "qwen3_moe", "qwen2_moe-normed"])
def test_exact_is_the_model(name: str, checkpoint: CheckpointMaker) -> None:
    folder = checkpoint(name)
    expected = plain_values(folder)
    assert expected.std() > 0.3
    # Tied to a large embedding, LFM2's head gives log-probabilities down to -50.
    error = 1e-5 * max(1, np.abs(expected).max() / 20)
    for pool in ("layer", "global"):
        found = scored(TransformersSource(str(folder)).open(), Cache("exact", 4, pool))
        np.testing.assert_allclose(found.values, expected, rtol=2e-6, atol=error)
        assert [part.changed for part in found.counts] == [0, 0]


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_by_layer_is_token_by_token(name: str, checkpoint: CheckpointMaker) -> None:
    folder = str(checkpoint(name))
    together = TransformersSource(folder).open()
    stepwise = TransformersSource(folder, stepwise=True).open()
    exact = scored(together, Cache("exact", 4))
    for routing in ROUTINGS:
        for eviction in ("lru", "lfu:0.9"):
            cache = Cache(routing, 4, eviction=eviction)
            one, other = scored(together, cache), scored(stepwise, cache)
            assert one.counts == other.counts
            np.testing.assert_allclose(one.values, other.values, rtol=0, atol=1e-4)
        # It would show little if the routing changed little.
        if routing != "exact":
            assert np.abs(one.values - exact.values).max() > 0.01, routing


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engine_scores_as_transformers_does(
    name: str, bundle: BundleMaker, checkpoint: CheckpointMaker
) -> None:
    model = TransformersSource(str(checkpoint(name))).open()
    engine = EngineSource(str(bundle(name, "fp32")), settings=(("threads", 1),)).open()
    worst = 0.0
    for pool in ("layer", "global"):
        for routing in ROUTINGS:
            cache = Cache(routing, 4, pool)
            one, other = scored(model, cache), scored(engine, cache)
            assert one.counts == other.counts, cache
            worst = max(worst, float(np.abs(one.values - other.values).max()))
    print(f"{name}: {worst:.1e}")
    assert worst < TOLERANCE


def test_bfloat16_is_scored(checkpoint: CheckpointMaker) -> None:
    """Its router logits have 8 bits; routing sees them as the model does."""
    folder = str(checkpoint("olmoe"))
    exact = scored(TransformersSource(folder).open(), Cache("exact", 4))
    coarse = TransformersSource(folder, dtype="bfloat16").open()
    for routing in ("exact", "cache-prior:0.2,J=1+drop-cold:0.7"):
        found = scored(coarse, Cache(routing, 4))
        assert np.isfinite(found.values).all()
        assert 0 < np.abs(found.values - exact.values).mean() < 1, routing
    assert found.counts[0].changed > 0
