# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A transformers model quantized eagerly by torchao: what a quantized bundle should compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.tiny import load_checkpoint


class UnstackedExperts(nn.Module):
    """The experts of a transformers 5 MoE block as linear layers, which torchao can quantize."""

    def __init__(self, stacked: Any) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for gate_up, down in zip(stacked.gate_up_proj, stacked.down_proj, strict=True):
            gate, up = gate_up.chunk(2)
            self.gate.append(_linear(gate))
            self.up.append(_linear(up))
            self.down.append(_linear(down))

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(hidden)
        for index, (gate, up, down) in enumerate(zip(self.gate, self.up, self.down, strict=True)):
            rows, ranks = (chosen == index).nonzero(as_tuple=True)
            x = hidden[rows]
            y = down(nn.functional.silu(gate(x)) * up(x))
            out.index_add_(0, rows, y * weights[rows, ranks, None])
        return out


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.detach().clone())
    return layer


def quantized_model(checkpoint: Path, quant: str, embedding: Tensor) -> nn.Module:
    """The checkpoint with its linear layers (router and shared expert's gate excepted) quantized.

    ``embedding`` replaces the embedding table: the bundle's int8 one.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

    model = load_checkpoint(checkpoint)
    model.lm_head = _linear(model.lm_head.weight)
    model.model.embed_tokens.weight = nn.Parameter(embedding)
    for layer in model.model.layers:
        layer.mlp.experts = UnstackedExperts(layer.mlp.experts)
    int4 = quant == "8da4w"
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4 if int4 else torch.int8,  # type: ignore[attr-defined]
        weight_granularity=PerGroup(32) if int4 else PerAxis(0),
    )
    quantize_(
        model,
        config,
        lambda m, name: isinstance(m, nn.Linear) and not name.endswith("shared_expert_gate"),
    )
    return model  # type: ignore[no-any-return]


def round_scales(model: nn.Module, quant: str) -> None:
    """Rounds the scales of int4 weights to bfloat16, as XNNPACK stores them."""
    if quant != "8da4w":
        return
    for module in model.modules():
        scale = getattr(getattr(module, "weight", None), "scale", None)
        if scale is not None:
            scale.copy_(scale.bfloat16().float())
