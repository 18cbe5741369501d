# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The trigram of the model card: a proper distribution, and right on a case done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.demo_training.trigram import KneserNey, discounts


def test_distribution_sums_to_one() -> None:
    rng = np.random.default_rng(0)
    vocabulary = 40
    stream = rng.zipf(1.5, 5000) % vocabulary
    model = KneserNey([stream[:3000], stream[3000:]], vocabulary)
    words = np.arange(vocabulary)
    for first, second in ((int(stream[7]), int(stream[8])), (39, 39), (0, 38)):
        p = model.probability(np.full(vocabulary, first), np.full(vocabulary, second), words)
        assert p.min() > 0
        assert p.sum() == pytest.approx(1.0, abs=1e-12)


def test_small_case_by_hand() -> None:
    # Stream a b c a b d (0 1 2 0 1 3): trigrams abc, bca, cab, abd, once each; too few counts of
    # counts for an estimate, so every discount is 0.75.
    model = KneserNey([np.array([0, 1, 2, 0, 1, 3])], 4)
    # Continuations: bigrams bc, ca, ab, bd follow one word each; so do the words c, a, b, d.
    unigram = 0.25 / 4 + 0.75 * (4 / 4) / 4  # = 1/4
    bigram = 0.25 / 2 + 0.75 * (2 / 2) * unigram  # P(c | b): b is followed by two words, once each
    trigram = 0.25 / 2 + 0.75 * (2 / 2) * bigram  # P(c | a b)
    a, b, c = np.array([0]), np.array([1]), np.array([2])
    assert model.probability(a, b, c)[0] == pytest.approx(trigram, abs=1e-12)
    # Context "d b" was never seen: the bigram answers. Context "x d" neither: the unigram does.
    assert model.probability(np.array([3]), b, c)[0] == pytest.approx(bigram, abs=1e-12)
    assert model.probability(a, np.array([3]), c)[0] == pytest.approx(unigram, abs=1e-12)


def test_discounts_from_counts_of_counts() -> None:
    counts = np.array([1.0] * 10 + [2.0] * 5 + [3.0] * 3 + [4.0] * 2)
    y = 10 / 20
    expected = [0, 1 - 2 * y * 5 / 10, 2 - 3 * y * 3 / 5, 3 - 4 * y * 2 / 3]
    assert discounts(counts) == pytest.approx(np.array(expected))


def test_perplexity_scores_all_but_the_first_token_of_a_window() -> None:
    rng = np.random.default_rng(1)
    stream = rng.integers(0, 8, 400)
    model = KneserNey([stream[:300]], 8)
    held = stream[300:]
    padded = np.concatenate([[0], held])
    logs = [
        np.log(model.probability(padded[i - 1 : i], held[i - 1 : i], held[i : i + 1])[0])
        for i in range(96)
        if i % 32
    ]
    assert model.perplexity(held, 32) == pytest.approx(float(np.exp(-np.mean(logs))))
