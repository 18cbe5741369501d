# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""RMSNorm as XNNPACK takes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension.

    XNNPACK does not take a mean over the last dimension; a linear layer with constant weights 1/d
    computes the same and keeps the program in one partition.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon
        self.mean: Tensor
        # Real even if the module is built on the meta device.
        self.register_buffer("mean", _mean_row(width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(linear(x * x, self.mean) + self.epsilon) * self.weight


def _mean_row(width: int) -> Tensor:
    return torch.full((1, width), 1.0 / width, device="cpu")


def mean_constants(widths: set[int]) -> list[bytes]:
    """The bytes of the constants that norms of these widths add to a program."""
    return [_mean_row(width).numpy().tobytes() for width in sorted(widths)]
