# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The yardstick of resident decoding: all layers of a model in ONE ExecuTorch program.

The program holds what a token computes in each layer (projections, shared expert, k experts), with
the experts fixed: no router, no dispatch, no call boundaries. Attention is left out: the queries
take the place of its output, and keys and values leave the program so that they are computed.
"""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moe_mobile.export.lowering import lower
from moe_mobile.export.programs import AttentionLayerShape, ExpertShape, Mix, Qkv, SwiGlu
from moe_mobile.export.shapes import Method, ProgramShape


@dataclass(frozen=True, kw_only=True)
class StackShape(ProgramShape):
    """``layers`` equal layers, each with ``top_k`` fixed experts; one row."""

    layer: AttentionLayerShape
    expert: ExpertShape
    layers: int
    top_k: int

    def methods(self) -> tuple[Method, ...]:
        return (Method("forward", "", lambda: _Stack(self), (self.hidden,), self.max_rows),)

    def float_linears(self) -> frozenset[str]:
        return frozenset(f"layers.{i}.mix.switch" for i in range(self.layers))

    def norm_widths(self) -> set[int]:
        return self.layer.norm_widths()


class _Stack(nn.Module):
    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        for layer in self.layers:
            x, k, v = layer(x)
            kept += [k, v]
        return (x, *kept)


class _Layer(nn.Module):
    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.qkv = Qkv(shape.layer)
        self.mix = Mix(shape.layer)
        del self.mix.router
        self.experts = nn.ModuleList(
            SwiGlu(shape.expert.hidden, shape.expert.width) for _ in range(shape.top_k)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x)
        x, h = self.mix.rows(q, x)
        for expert in self.experts:
            x = x + expert(h) * (1.0 / len(self.experts))
        return x, k, v


def write_single_program(
    layer: AttentionLayerShape, expert: ExpertShape, layers: int, top_k: int, path: pathlib.Path
) -> None:
    """Lowers the program with seeded random weights and writes it to ``path``."""
    shape = StackShape(
        hidden=layer.hidden,
        encoding=expert.encoding,
        max_rows=1,
        layer=layer,
        expert=expert,
        layers=layers,
        top_k=top_k,
    )
    generator = torch.Generator().manual_seed(0)
    weights = {
        parameter.name: torch.randn(parameter.dims, generator=generator)
        * (parameter.dims[-1] ** -0.5 if len(parameter.dims) == 2 else 1.0)
        for parameter in shape.parameters()
    }
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(lower(shape, weights))
    os.replace(temporary, path)
