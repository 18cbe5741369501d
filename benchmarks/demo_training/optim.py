# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimisers: Muon for the weight matrices, AdamW for embedding, router and norms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.demo_training.model import DemoModel
from benchmarks.demo_training.settings import Settings

MOMENTUM = 0.95


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximately orthogonal factor of every matrix of ``[count, rows, columns]``.

    Newton-Schulz iteration with the quintic coefficients of Muon
    (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.size(-2) < matrices.size(-1)
    x = matrices.transpose(-2, -1) if wide else matrices  # tall: the Gram matrix is the small one
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x.transpose(1, 2), x)
        x = torch.baddbmm(x, x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), beta=a)
    return x.transpose(-2, -1) if wide else x


class Optimisers:
    """Both optimisers of one model; gradients are read from and cleared on its parameters."""

    def __init__(self, model: DemoModel, settings: Settings) -> None:
        self.settings = settings
        self.experts = [model.gate_up, model.down]
        self.matrices = [model.wq, model.wk, model.wv, model.wo, *self.experts]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.width = model.shape.expert_width
        chosen = {id(p) for p in self.matrices}
        self.adam = torch.optim.AdamW(
            [p for p in model.parameters() if id(p) not in chosen],
            lr=settings.peak_rate,
            betas=(0.9, 0.95),
            eps=1e-9,
            weight_decay=0.0,
        )

    def _direction(self, gradient: Tensor) -> Tensor:
        """Muon step of a stacked weight: every matrix apart, gate and up projections too.

        Scaled by 0.2 * sqrt(larger side), after Liu et al., "Muon is scalable" (arXiv:2502.16982).
        """
        if gradient.dim() == 3:
            matrices = gradient
        elif gradient.shape[-1] == 2 * self.width:  # gate_up [L, E, H, 2 * width]
            layers, experts, hidden, _ = gradient.shape
            split = gradient.view(layers, experts, hidden, 2, self.width).transpose(2, 3)
            matrices = split.reshape(-1, hidden, self.width)
        else:
            matrices = gradient.flatten(0, 1)
        scale = 0.2 * math.sqrt(max(matrices.shape[-2:]))
        step = orthogonalise(matrices) * scale
        if gradient.dim() == 4 and gradient.shape[-1] == 2 * self.width:
            layers, experts, hidden, _ = gradient.shape
            split = step.view(layers, experts, 2, hidden, self.width).transpose(2, 3)
            return split.reshape(gradient.shape)
        return step.reshape(gradient.shape)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Apply one update at learning rate ``rate`` and clear the gradients."""
        for p, m in zip(self.matrices, self.momentum, strict=True):
            assert p.grad is not None
            m.mul_(MOMENTUM).add_(p.grad)
            direction = self._direction(p.grad.add_(m, alpha=MOMENTUM))
            p.mul_(1 - rate * self.settings.weight_decay).add_(direction, alpha=-rate)
            p.grad = None
        for group in self.adam.param_groups:
            group["lr"] = rate * self.settings.adam_scale
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """State of both optimisers, for :meth:`restore`."""
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back a state taken with :meth:`state`."""
        for mine, saved in zip(self.momentum, state["momentum"], strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict(state["adam"])
