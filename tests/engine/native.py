# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the public API does not show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moe_mobile import Engine
from tests.oracles.logits import Logits

GREEDY = '{"temperature": 0.0}'


def logits_after_prompt(engine: Engine, prompt: Sequence[int], count: int) -> Logits:
    """The logits [count, vocab] that greedy tokens after a prompt are taken from.

    The first row comes from the batch that computes the prompt, the others from decoding after it.
    """
    native = engine._engine
    assert native is not None
    generator = native.generate(list(prompt), count, GREEDY, True, None)
    rows = []
    while generator.next() is not None:
        rows.append(generator.logits)
    return np.stack(rows)
