# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Interpolated modified Kneser-Ney trigram: the yardstick of the model card.

After Chen & Goodman, "An empirical study of smoothing techniques for language modeling" (1998),
section 4.1.2: three discounts per order (for counts of 1, 2, and 3 or more, from the
counts of counts), raw counts at the highest order, continuation counts below, and the uniform
distribution below the unigrams.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def _sum_by_key(keys: Ints, values: Floats) -> tuple[Ints, Floats]:
    """Distinct ``keys``, sorted, and the sums of their ``values``."""
    distinct, place = np.unique(keys, return_inverse=True)
    return distinct, np.bincount(place, weights=values).astype(np.float64)


def _look_up(keys: Ints, values: Floats, wanted: Ints) -> Floats:
    """Values of the ``wanted`` keys; 0 for a key that is not in the sorted ``keys``."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0.0)


def discounts(counts: Floats) -> Floats:
    """Discounts for counts of 0, 1, 2, and 3 or more: ``[4]`` (Chen & Goodman, eq. 26).

    One discount of 0.75 if the counts of counts do not allow the estimate (tiny texts).
    """
    n1, n2, n3, n4 = (float((counts == i).sum()) for i in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return np.array([0.0, 0.75, 0.75, 0.75])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    if (found[1:] <= 0).any() or (found > np.arange(4)).any():
        return np.array([0.0, 0.75, 0.75, 0.75])
    return found


class _Order:
    """One order: discounted counts of ``context * vocabulary + word`` and back-off weights."""

    def __init__(self, keys: Ints, counts: Floats, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.keys, self.counts = keys, counts
        self.discount = discounts(counts)
        contexts = keys // vocabulary
        self.contexts, self.totals = _sum_by_key(contexts, counts)
        self.removed = _sum_by_key(contexts, self._discount_of(counts))[1]

    def _discount_of(self, counts: Floats) -> Floats:
        taken: Floats = self.discount[np.minimum(counts, 3).astype(np.int64)]
        return taken

    def probability(self, context: Ints, word: Ints, lower: Floats) -> Floats:
        """Interpolated probability; ``lower`` is that of the next lower order."""
        counts = _look_up(self.keys, self.counts, context * self.vocabulary + word)
        total = _look_up(self.contexts, self.totals, context)
        removed = _look_up(self.contexts, self.removed, context)
        kept = counts - self._discount_of(counts)
        return np.where(total > 0, (kept + removed * lower) / np.maximum(total, 1), lower)


class KneserNey:
    """Trigram model of token ``streams`` (each int64 ``[tokens]``, ids below ``vocabulary``)."""

    def __init__(self, streams: Iterable[Ints], vocabulary: int) -> None:
        v = vocabulary
        triples = np.concatenate([(s[:-2] * v + s[1:-1]) * v + s[2:] for s in streams])
        keys, counts = np.unique(triples, return_counts=True)
        self.trigrams = _Order(keys, counts.astype(np.float64), v)
        keys, counts = np.unique(keys % (v * v), return_counts=True)  # distinct words before
        self.bigrams = _Order(keys, counts.astype(np.float64), v)
        keys, counts = np.unique(keys % v, return_counts=True)
        self.unigrams = _Order(keys, counts.astype(np.float64), v)
        self.vocabulary = v

    def probability(self, first: Ints, second: Ints, word: Ints) -> Floats:
        """P(word | first, second), elementwise; all int64 of one shape ``[n]``."""
        uniform = np.full(len(word), 1 / self.vocabulary)
        p = self.unigrams.probability(np.zeros_like(word), word, uniform)
        p = self.bigrams.probability(second, word, p)
        return self.trigrams.probability(first * self.vocabulary + second, word, p)

    def perplexity(self, tokens: Ints, length: int) -> float:
        """Perplexity over the tokens the model is scored on: all but the first of every window.

        ``tokens`` is ``[tokens]``, cut into windows of ``length``; unlike the model, the trigram
        also sees the token before a window. Token 0 stands before the first one.
        """
        n = len(tokens) // length * length
        at = np.arange(n)
        at = at[at % length != 0]
        before = np.concatenate([[0], tokens])  # shifted: before[i] is tokens[i - 1]
        p = self.probability(before[at - 1], tokens[at - 1], tokens[at])
        return float(np.exp(-np.log(p).mean()))
