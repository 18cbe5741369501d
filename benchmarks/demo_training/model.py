# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo model for training: Qwen3-MoE with the layers' weights stacked in few tensors.

Same function as ``Qwen3MoeForCausalLM`` of transformers (models/qwen3_moe/modeling_qwen3_moe.py);
:mod:`.checkpoint` writes it under that implementation's names.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.demo_training.kernels import experts, tied_loss
from benchmarks.demo_training.settings import Shape

LIFT_BELOW = 0.4
"""Experts with less than this multiple of their fair share of a step's tokens count as starved."""


class Auxiliary(NamedTuple):
    """Losses on the router, scalars: Switch ``balance`` and ``lift`` of starved experts."""

    balance: Tensor
    lift: Tensor


class DemoModel(torch.nn.Module):
    """Weights, fp32, with ``L`` layers, ``E`` experts, hidden ``H``, head width ``D``:

    ``embedding [V, H]``; ``attn_norm, moe_norm [L, H]``; ``final_norm [H]``; ``q_norm, k_norm
    [L, D]``; ``wq, wk, wv [L, heads*D, H]``; ``wo [L, H, heads*D]``; ``router [L, E, H]``;
    ``gate_up [L, E, H, 2*width]``; ``down [L, E, width, H]``.
    """

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        generator = torch.Generator().manual_seed(seed)
        hidden, layers, count = shape.hidden, shape.layers, shape.experts
        width, head = shape.expert_width, shape.head_width

        def normal(*size: int, std: float) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.randn(*size, generator=generator) * std)

        def ones(*size: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.ones(*size))

        inward = 0.7 * hidden**-0.5
        residual = 1 / math.sqrt(2 * layers)
        self.embedding = normal(shape.vocabulary, hidden, std=0.05)
        self.final_norm = ones(hidden)
        self.attn_norm = ones(layers, hidden)
        self.moe_norm = ones(layers, hidden)
        self.q_norm = ones(layers, head)
        self.k_norm = ones(layers, head)
        self.wq = normal(layers, shape.heads * head, hidden, std=inward)
        self.wk = normal(layers, shape.kv_heads * head, hidden, std=inward)
        self.wv = normal(layers, shape.kv_heads * head, hidden, std=inward)
        self.wo = normal(layers, hidden, shape.heads * head, std=inward * residual)
        self.router = normal(layers, count, hidden, std=0.02)
        self.gate_up = normal(layers, count, hidden, 2 * width, std=inward)
        self.down = normal(layers, count, width, hidden, std=0.7 * width**-0.5 * residual)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.shape.epsilon)

    def _rotation(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        exponent = torch.arange(0, self.shape.head_width, 2, device=device).float()
        frequency = self.shape.rope_base ** (-exponent / self.shape.head_width)
        angle = torch.outer(torch.arange(length, device=device).float(), frequency)
        return angle.cos()[None, :, None], angle.sin()[None, :, None]

    def _attention(self, layer: int, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        shape = self.shape
        rows, length, _ = x.shape
        head, heads, kv_heads = shape.head_width, shape.heads, shape.kv_heads
        weight = torch.cat([self.wq[layer], self.wk[layer], self.wv[layer]])
        qkv = F.linear(x, weight).view(rows, length, heads + 2 * kv_heads, head)
        cos, sin = rotation

        def rotate(y: Tensor) -> Tensor:
            a, b = y[..., : head // 2], y[..., head // 2 :]
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        def repeat(y: Tensor) -> Tensor:
            group = heads // kv_heads
            wide = y.unsqueeze(3).expand(rows, length, kv_heads, group, head)
            return wide.reshape(rows, length, heads, head).transpose(1, 2)

        q = rotate(self._norm(qkv[:, :, :heads], self.q_norm[layer])).transpose(1, 2)
        k = rotate(self._norm(qkv[:, :, heads : heads + kv_heads], self.k_norm[layer]))
        v = qkv[:, :, heads + kv_heads :]
        mixed = F.scaled_dot_product_attention(q, repeat(k), repeat(v), is_causal=True)
        return F.linear(mixed.transpose(1, 2).reshape(rows, length, heads * head), self.wo[layer])

    def hidden(self, ids: Tensor, routes: list[Tensor] | None = None) -> tuple[Tensor, Auxiliary]:
        """Final hidden states of ``ids`` (int64 ``[rows, length]``) and the router's losses.

        The states are ``[rows, length, hidden]``, after the final norm. The balance loss is that of
        the Switch Transformer (arXiv:2101.03961, eq. 4), averaged over layers: 1 when balanced. It
        hardly moves an expert that next to no token chooses, for its gradient has the tiny
        probability of that expert as a factor. The lift has not: for every expert below
        :data:`LIFT_BELOW` it is the mean logit, negated, times how far the expert is below.
        ``routes``, if given, receives per layer the chosen experts, ``[rows * length, active]``.
        """
        shape = self.shape
        rows, length = ids.shape
        tokens = rows * length
        x = F.embedding(ids, self.embedding)
        rotation = self._rotation(length, ids.device)
        balance, lift = x.new_zeros(()), x.new_zeros(())
        for layer in range(shape.layers):
            x = x + self._attention(layer, self._norm(x, self.attn_norm[layer]), rotation)
            h = self._norm(x, self.moe_norm[layer]).view(tokens, shape.hidden)
            scores = F.linear(h, self.router[layer])
            probability = torch.softmax(scores, -1)
            weight, chosen = torch.topk(probability, shape.active, -1)
            weight = weight / weight.sum(-1, keepdim=True)
            used = torch.bincount(chosen.reshape(-1), minlength=shape.experts)
            share = used.to(x.dtype) / (tokens * shape.active)
            balance = balance + shape.experts * (share * probability.mean(0)).sum()
            starved = torch.relu(1 - share * (shape.experts / LIFT_BELOW))
            lift = lift - (starved * scores.mean(0)).sum()
            if routes is not None:
                routes.append(chosen)
            out = experts(h, chosen, weight, self.gate_up[layer], self.down[layer])
            x = x + out.view(rows, length, shape.hidden)
        auxiliary = Auxiliary(balance / shape.layers, lift / shape.layers)
        return self._norm(x, self.final_norm), auxiliary

    def loss(self, ids: Tensor, target: Tensor) -> tuple[Tensor, Auxiliary]:
        """Mean next-token loss in nats, and the router's; inputs int64 ``[rows, length]``."""
        states, auxiliary = self.hidden(ids)
        flat = states.view(-1, self.shape.hidden)
        return tied_loss(flat, self.embedding, target.reshape(-1)), auxiliary

    def logits(self, ids: Tensor) -> Tensor:
        """Next-token logits, ``[rows, length, vocabulary]``."""
        return F.linear(self.hidden(ids)[0], self.embedding)
