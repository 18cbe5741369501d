# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Random weights of real dimensions: performance work without downloads.

Every tensor is a pure function of (seed, name), generated in blocks of rows so that slices of it
cost only themselves. Scales keep activations of a deep model finite and of ordinary size. Values
are bytes of a counter-based generator times a scale: much faster than normal deviates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable

import numpy as np
import torch

from moe_mobile.model.names import TensorRef

_BLOCK_ROWS = 4096
_NORM_SPREAD = 0.1
# Of a matrix's values, times sqrt(columns).
_DEVIATION = 0.7
# A token's embedding must outweigh what the layers add, or every token takes nearly the same
# experts: with it, half of Qwen1.5-MoE's experts in an LRU cache catch three quarters of the uses,
# without it 97 % (docs/findings/streaming.md). The trained demo model's half catches 69 %.
_EMBEDDING_GAIN = 24.0


RECIPE = 2
"""Number of the way to draw random weights: it changes when the weights do."""


class RandomStore:
    """Answers every tensor reference with deterministic random values of the asked shape."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def __contains__(self, name: object) -> bool:
        # As in published checkpoints: experts have names of their own, a tied head has none.
        absent = ("gate_up_proj", "experts.down_proj", "lm_head.weight")
        return isinstance(name, str) and not name.endswith(absent)

    def names(self) -> Collection[str]:
        """None: it has whatever is asked for."""
        return ()

    def fingerprint(self) -> str:
        return f"random weights {RECIPE}, seed {self._seed}"

    def written(self) -> str:
        """Always the same: nothing else can be drawn."""
        return ""

    def checksum(self, refs: Iterable[TensorRef]) -> int:
        """Always the same: the fingerprint says all."""
        return 0

    def check(self, ref: TensorRef) -> None:
        """Any tensor exists with any shape."""

    def read(self, ref: TensorRef) -> torch.Tensor:
        """The part of the tensor that ``ref`` means, float32.

        Matrices are uniform with standard deviation 0.7 / sqrt(columns), the embedding 24 times
        that, vectors (norms and biases) are 1 +- 0.1 and +- 0.1.
        """
        if len(ref.shape) == 1:
            values = self._bytes(ref.name, 0, ref.shape[0]).to(torch.float32)
            values = values * (_NORM_SPREAD / 128)
            return values if ref.name.endswith("bias") else values + 1.0
        if ref.column is not None:
            count = math.prod(ref.part_shape)
            values = self._bytes(ref.name, ref.column, count).to(torch.float32)
            return values.mul_(_DEVIATION / 73.9 / ref.shape[-1] ** 0.5).reshape(ref.part_shape)
        rows = ref.rows or (0, ref.shape[-2])
        columns = ref.shape[-1]
        parts = []
        for block in range(rows[0] // _BLOCK_ROWS, -(-rows[1] // _BLOCK_ROWS)):
            first = block * _BLOCK_ROWS
            count = min(_BLOCK_ROWS, ref.shape[-2] - first)
            part = self._bytes(ref.name, block, count * columns).reshape(count, columns)
            parts.append(part[max(rows[0] - first, 0) : rows[1] - first])
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        gain = _EMBEDDING_GAIN if ref.name.endswith("embed_tokens.weight") else 1.0
        # A uniform byte has a standard deviation of 73.9.
        return joined.to(torch.float32).mul_(gain * _DEVIATION / 73.9 / columns**0.5)

    def _bytes(self, name: str, block: int, count: int) -> torch.Tensor:
        digest = hashlib.sha256(f"{self._seed}/{name}/{block}".encode()).digest()
        generator = np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))
        words = generator.integers(0, 2**64, size=-(-count // 8), dtype=np.uint64)
        return torch.from_numpy(words.view(np.int8)[:count])
