# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine computes what transformers computes, for every family, in float32."""

from __future__ import annotations

import numpy as np
import pytest

from moe_mobile import Engine
from tests.bundles import CASES, BundleMaker, CheckpointMaker
from tests.engine.native import logits_after_prompt
from tests.oracles.logits import greedy, logits_of
from tests.tiny import load_checkpoint, tiny_prompt

PROMPT, DECODED = 32, 32

# What is promised. Measured: at most 1.5e-5, the rounding of float32 sums in another order.
TOLERANCE = 1e-3
# A prompt's rows are computed together and a token's alone. Measured: no difference at all, but
# kernels for many rows may sum in another order on another processor.
BATCH_TOLERANCE = 1e-4


@pytest.mark.parametrize("case", CASES)
def test_fp32_equals_transformers(
    case: str, checkpoint: CheckpointMaker, bundle: BundleMaker
) -> None:
    model = load_checkpoint(checkpoint(case))
    prompt = tiny_prompt(PROMPT)
    continuation = greedy(model, prompt, DECODED)
    ids = prompt + continuation
    expected = logits_of(model, ids)
    # The comparison would mean little if all logits were nearly the same.
    assert expected.std() > 0.5
    # If the head is the embedding, a random model repeats the last token.
    assert len(set(continuation)) > 3 or model.config.tie_word_embeddings

    with Engine(bundle(case, "fp32"), threads=1) as engine:
        scored = engine.score(ids)
        assert scored.dtype == np.float32
        assert scored.shape == expected.shape
        assert np.abs(scored - expected).max() < TOLERANCE

        assert list(engine.generate(prompt, DECODED, ignore_eos=True)) == continuation

        prefilled = logits_after_prompt(engine, prompt, DECODED)
        apart = np.abs(prefilled - scored[PROMPT - 1 : -1]).max()
        assert apart < BATCH_TOLERANCE
        print(f"{case}: error {np.abs(scored - expected).max():.1e}, prompt {apart:.1e}")


def test_prompt_longer_than_a_batch(checkpoint: CheckpointMaker, bundle: BundleMaker) -> None:
    """The bundle's programs take 16 rows: a prompt of 150 tokens needs ten batches."""
    prompt = tiny_prompt(150)
    expected = logits_of(load_checkpoint(checkpoint("mixtral")), prompt)[-1]
    with Engine(bundle("mixtral", "fp32"), threads=1) as engine:
        actual = logits_after_prompt(engine, prompt, 1)[0]
        ((_, count),) = [(step.phase, step.count) for step in engine.stats.tokens]
    assert count == 150
    assert np.abs(actual - expected).max() < TOLERANCE
