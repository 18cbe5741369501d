# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Held-out perplexity and expert usage."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.demo_training.model import DemoModel


@torch.no_grad()
def perplexity_and_usage(
    model: DemoModel, tokens: Tensor, length: int, tokens_at_once: int = 4096
) -> tuple[float, Tensor]:
    """Perplexity over windows of ``length`` tokens, and how often every expert was chosen.

    ``tokens`` is an int64 stream ``[tokens]``, cut into windows (a shorter rest is left out); all
    tokens but the first of every window are scored. The usage is int64 ``[layers, experts]``.
    """
    windows = tokens[: len(tokens) // length * length].view(-1, length)
    device = model.embedding.device
    shape = model.shape
    usage = torch.zeros(shape.layers, shape.experts, dtype=torch.int64)
    total = 0.0
    for rows in torch.split(windows, max(1, tokens_at_once // length)):
        ids = rows.to(device)
        routes: list[Tensor] = []
        states, _ = model.hidden(ids, routes)
        logits = F.linear(states[:, :-1], model.embedding).flatten(0, 1)
        total += F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum").item()
        for layer, chosen in enumerate(routes):
            usage[layer] += torch.bincount(chosen.flatten().cpu(), minlength=shape.experts)
    return math.exp(total / (windows.shape[0] * (length - 1))), usage
