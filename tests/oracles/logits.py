# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What transformers and torchao compute, to compare the engine with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Logits = NDArray[np.float32]


def logits_of(model: Any, ids: Sequence[int]) -> Logits:
    """Logits [len(ids), vocab] of a transformers model, float32."""
    with torch.no_grad():
        out: Tensor = model(torch.tensor([list(ids)]), use_cache=False).logits[0]
    return out.float().numpy()


def greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The ``count`` most probable tokens after a prompt, everything recomputed for each."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(logits_of(model, ids)[-1].argmax()))
    return ids[len(prompt) :]
