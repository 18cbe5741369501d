# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Quantized bundles compute what torchao computes eagerly with the same quantization.

Both round activations to int8 in the same way, so most logits agree to the rounding of float32
sums. If a value lies so close to the middle of two int8 steps that the order of a sum decides,
the step differs, and with it everything that depends on that value. That is all a tolerance is for.
Errors are relative to the standard deviation of all logits.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from moe_mobile import Engine
from tests.bundles import BundleMaker, CheckpointMaker
from tests.oracles.interpreter import Interpreter
from tests.oracles.logits import logits_of
from tests.oracles.torchao_model import half_precision_cache, torchao_model
from tests.tiny import VOCAB

# The head as a matrix of its own: a tied random model repeats its last token.
NAMES = ("mixtral", "qwen2_moe", "qwen3_moe-untied", "olmoe")
IDS = [(11 * i**3 + 7 * i**2 + 13 * i + 5) % (VOCAB - 3) + 3 for i in range(64)]

# Measured over the eight cases: at most 0.035; a changed route would move logits by 0.25 to 0.7.
WORST = 0.1
# Measured: at most 0.0022, and below 1e-6 in seven cases.
MEDIAN = 0.01
# Measured: at least 0.9999.
COSINE = 0.999
# Tokens that find the same experts as torchao chooses. Measured: all of them.
SAME_HITS = 0.95


# What other tests lower too, and a family in four bits; the rest is minutes of lowering.
QUICK = {("mixtral", "8da8w"), ("qwen2_moe", "8da4w"), ("qwen3_moe-untied", "8da8w")}


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in itertools.product(NAMES, ("8da4w", "8da8w"))
    ],
)
def test_quantized_equals_torchao(
    name: str, quant: str, checkpoint: CheckpointMaker, bundle: BundleMaker
) -> None:
    made = bundle(name, quant)
    oracle = torchao_model(checkpoint(name), quant, Interpreter(made).embed(range(VOCAB)))
    oracle.round_scales()
    with half_precision_cache(oracle):
        expected = logits_of(oracle, IDS)
    with Engine(made, "50%", threads=1) as engine:
        actual = engine.score(IDS)
        hits = [step.hits for step in engine.stats.tokens]
        slots = engine.info.plan.slots

    errors = np.abs(actual - expected) / expected.std()
    cosines = (actual * expected).sum(1) / np.linalg.norm(actual, axis=1)
    cosines /= np.linalg.norm(expected, axis=1)
    same = np.mean(np.array(hits) == lru_hits(oracle.routes, slots))
    print(
        f"{name} {quant}: worst {errors.max():.5f}, median {np.median(errors):.7f}, "
        f"cosine {cosines.min():.6f}, same hits {same:.3f}"
    )
    assert errors.max() < WORST
    assert np.median(errors) < MEDIAN
    assert cosines.min() > COSINE
    assert same >= SAME_HITS


def lru_hits(
    routes: Sequence[torch.Tensor], slots: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Hits of each token in one least-recently-used cache; routes: per layer [tokens, top_k]."""
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    hits = np.zeros(len(routes[0]), np.int64)
    for token in range(len(hits)):
        for layer, route in enumerate(routes):
            chosen = [(layer, int(expert)) for expert in route[token]]
            hits[token] += sum(key in cache for key in chosen)
            # The best is touched last. What the layer uses is not evicted by it.
            for key in reversed(chosen):
                cache[key] = None
                cache.move_to_end(key)
            while len(cache) > slots:
                cache.popitem(last=False)
    return hits
