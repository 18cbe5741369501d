# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Models quantized and run eagerly by torchao: oracles for quantized programs and bundles.

They share nothing with the product but the embedding table, which is compared without tolerance
elsewhere.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import load_checkpoint

# Kept in float32, as in a bundle. Routers are not nn.Linear in transformers 5.
FLOAT_LAYERS = ("shared_expert_gate",)


class LinearExperts(nn.Module):
    """The stacked experts of a MoE block as linear layers, which torchao can quantize.

    ``routes`` collects what each call was told to use: int64 [rows, top_k].
    """

    def __init__(self, stacked: Any) -> None:
        super().__init__()
        self.routes: list[Tensor] = []
        self.gates, self.ups, self.downs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for expert in range(len(stacked.down_proj)):
            gate, up = stacked.gate_up_proj[expert].chunk(2)
            self.gates.append(linear(gate))
            self.ups.append(linear(up))
            self.downs.append(linear(stacked.down_proj[expert]))

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        self.routes.append(chosen)
        rows = []
        for row in range(len(hidden)):
            x, total = hidden[row : row + 1], torch.zeros(1, hidden.shape[1])
            for expert, weight in zip(chosen[row].tolist(), weights[row], strict=True):
                inner = nn.functional.silu(self.gates[expert](x)) * self.ups[expert](x)
                total += weight * self.downs[expert](inner)
            rows.append(total)
        return torch.cat(rows)


class TwoPrecisions(nn.Module):
    """Experts of a MoE block: a token's best ranks run in ``full``, the others in ``low``."""

    def __init__(self, full: LinearExperts, low: LinearExperts, full_ranks: int) -> None:
        super().__init__()
        self.full, self.low, self.full_ranks = full, low, full_ranks

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        n = self.full_ranks
        best: Tensor = self.full(hidden, chosen[:, :n], weights[:, :n])
        rest: Tensor = self.low(hidden, chosen[:, n:], weights[:, n:])
        return best + rest


def linear(weight: Tensor) -> nn.Linear:
    """A linear layer without bias that holds a copy of ``weight``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.detach().clone())
    return layer


def quantize_linears(
    model: nn.Module, quant: str, group_size: int = 32, *, keep: tuple[str, ...] = ()
) -> None:
    """Quantizes linear layers by torchao's ``quantize_``, in place.

    Args:
        quant: ``8da8w`` (int8 per channel) or ``8da4w`` (int4 in groups), activations int8.
        group_size: columns per scale in ``8da4w``.
        keep: layers whose name ends with one of these stay as they are.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

    int4 = {"8da4w": True, "8da8w": False}[quant]
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4 if int4 else torch.int8,  # type: ignore[attr-defined]
        weight_granularity=PerGroup(group_size) if int4 else PerAxis(0),
    )
    quantize_(
        model,
        config,
        lambda module, name: isinstance(module, nn.Linear) and not name.endswith(keep),
    )


@dataclass
class TorchaoModel:
    """``model`` computes logits; ``routes`` are those of its last call, per MoE layer."""

    model: Any
    quant: str
    experts: list[LinearExperts]

    def __call__(self, ids: Tensor, **options: Any) -> Any:
        for experts in self.experts:
            experts.routes.clear()
        return self.model(ids, **options)

    @property
    def routes(self) -> list[Tensor]:
        return [torch.cat(experts.routes) for experts in self.experts]

    def round_scales(self) -> None:
        """Rounds the scales of 4-bit groups to bfloat16, as XNNPACK keeps them."""
        if self.quant == "8da4w":
            _round_scales(self.model)


def _round_scales(model: nn.Module) -> None:
    for module in model.modules():
        scale = getattr(getattr(module, "weight", None), "scale", None)
        if scale is not None:
            scale.copy_(scale.to(torch.bfloat16))


def torchao_model(
    checkpoint: Path,
    quant: str,
    embedding: Tensor,
    *,
    low: str | None = None,
    full_ranks: int = 0,
) -> TorchaoModel:
    """The checkpoint with every linear layer but ``FLOAT_LAYERS`` quantized, groups of 32.

    ``embedding`` replaces the embedding table: the bundle's int8 one. With ``low``, experts after
    the ``full_ranks`` best of a token are quantized so, with their scales rounded.
    """
    model = load_checkpoint(checkpoint)
    model.lm_head = linear(model.lm_head.weight)  # no longer tied to the embedding
    model.model.embed_tokens.weight = nn.Parameter(embedding)
    found = []
    for layer in model.model.layers:
        block = layer.mlp if hasattr(layer, "mlp") else layer.feed_forward
        if hasattr(block, "experts"):
            block.experts = LinearExperts(block.experts)
            found.append(block.experts)
    lows = [copy.deepcopy(experts) for experts in found] if low is not None else []
    quantize_linears(model, quant, keep=FLOAT_LAYERS)
    for layer in model.model.layers:
        if lows and hasattr(layer.mlp, "experts"):
            quantize_linears(lows[0], str(low))
            if low == "8da4w":
                _round_scales(lows[0])
            layer.mlp.experts = TwoPrecisions(layer.mlp.experts, lows.pop(0), full_ranks)
    return TorchaoModel(model, quant, found)


@contextmanager
def half_precision_cache(model: TorchaoModel) -> Iterator[None]:
    """Inside, keys and values are rounded to float16, as the engine keeps them."""
    module = sys.modules[type(model.model).__module__]
    eager = module.eager_attention_forward

    def rounded(
        layer: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
    ) -> Any:
        return eager(layer, query, key.half().float(), value.half().float(), *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "eager_attention_forward", rounded)
        yield
