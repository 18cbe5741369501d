# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The order in which training rows are taken: a pure function of the step, so resuming is exact."""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """Rows of ``length`` tokens out of one token stream (int64 ``[tokens]``), ``count`` per step.

    Every epoch cuts the stream at a random offset and takes the rows in random order.
    """

    def __init__(self, stream: Tensor, length: int, count: int, seed: int) -> None:
        self.stream = stream
        self.length = length
        self.count = count
        self.seed = seed
        self.steps_per_epoch = (len(stream) - 1 - length) // length // count
        if self.steps_per_epoch < 1:
            raise ValueError(f"{len(stream)} tokens are too few for {count} rows of {length}")
        self._epoch = -1
        self._starts = torch.empty(0, dtype=torch.int64)

    def take(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the 0-based ``index``-th step, each int64 ``[count, length]``."""
        epoch, place = divmod(index, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            offset = torch.randint(0, self.length, (1,), generator=generator)
            rows = (len(self.stream) - 1 - self.length) // self.length
            order = torch.randperm(rows, generator=generator)
            self._starts, self._epoch = order * self.length + offset, epoch
        starts = self._starts[place * self.count : (place + 1) * self.count]
        block = self.stream[starts[:, None] + torch.arange(self.length + 1)]
        return block[:, :-1], block[:, 1:]
