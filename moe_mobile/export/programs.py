# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The programs of a bundle: each a shape, and the PyTorch modules that are its methods.

They are written so that XNNPACK takes each method as one partition. All tensors are float32, n is
the number of rows (tokens), H the hidden size. See docs/bundle-format.md, section 3, for what the
programs compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from moe_mobile.export.rms_norm import RmsNorm
from moe_mobile.export.shapes import Method, ProgramShape


@dataclass(frozen=True, kw_only=True)
class ExpertShape(ProgramShape):
    """An expert's program."""

    width: int

    def methods(self) -> tuple[Method, ...]:
        def module() -> nn.Module:
            return SwiGlu(self.hidden, self.width)

        return (Method("forward", "", module, (self.hidden,), self.max_rows),)


class SwiGlu(nn.Module):
    """down(silu(gate(x)) * up(x)), [n, H] -> [n, H]; an expert's whole program."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, width, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.down = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _swiglu(self, x)


def _swiglu(module: SwiGlu | Mix, x: Tensor) -> Tensor:
    hidden: Tensor = silu(module.gate(x)) * module.up(x)
    out: Tensor = module.down(hidden)
    return out


@dataclass(frozen=True, kw_only=True)
class LayerShape(ProgramShape):
    """What the dense programs of all layers share.

    ``experts`` 0: a dense layer whose MLP is ``mlp_width`` wide; else ``mlp_width`` is that of the
    shared expert, 0 if there is none.
    """

    epsilon: float
    experts: int
    mlp_width: int

    def float_linears(self) -> frozenset[str]:
        return frozenset({"mix.router", "mix.switch"})

    def norm_widths(self) -> set[int]:
        return {self.hidden}


@dataclass(frozen=True, kw_only=True)
class AttentionLayerShape(LayerShape):
    """The program of a layer with attention. ``qk_norm`` is none, head or projection."""

    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: str
    qkv_bias: bool
    output_bias: bool
    clip: float | None

    def methods(self) -> tuple[Method, ...]:
        attention = self.heads * self.head_dim
        return (
            Method("qkv", "qkv.", lambda: Qkv(self), (self.hidden,), self.max_rows),
            Method("mix", "mix.", lambda: Mix(self), (attention, self.hidden), self.max_rows),
        )

    def norm_widths(self) -> set[int]:
        widths = super().norm_widths()
        if self.qk_norm == "head":
            widths.add(self.head_dim)
        elif self.qk_norm == "projection":
            widths |= {self.heads * self.head_dim, self.kv_heads * self.head_dim}
        return widths


@dataclass(frozen=True, kw_only=True)
class ConvolutionLayerShape(LayerShape):
    """The program of a layer with a short convolution."""

    kernel: int

    def methods(self) -> tuple[Method, ...]:
        mixed = (self.hidden,) * (self.kernel + 2)
        return (
            Method("qkv", "qkv.", lambda: ConvolutionIn(self), (self.hidden,), self.max_rows),
            Method("mix", "mix.", lambda: ConvolutionMix(self), mixed, self.max_rows),
        )


class Qkv(nn.Module):
    """Input norm, projections, query and key norms: [n, H] -> q, k, v."""

    def __init__(self, shape: AttentionLayerShape) -> None:
        super().__init__()
        self.shape = shape
        self.norm = RmsNorm(shape.hidden, shape.epsilon)
        query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q = nn.Linear(shape.hidden, query, bias=shape.qkv_bias)
        self.k = nn.Linear(shape.hidden, kv, bias=shape.qkv_bias)
        self.v = nn.Linear(shape.hidden, kv, bias=shape.qkv_bias)
        if shape.qk_norm == "head":
            self.q_norm = RmsNorm(shape.head_dim, shape.epsilon)
            self.k_norm = RmsNorm(shape.head_dim, shape.epsilon)
        elif shape.qk_norm == "projection":
            self.q_norm = RmsNorm(query, shape.epsilon)
            self.k_norm = RmsNorm(kv, shape.epsilon)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.shape
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        if shape.qk_norm == "head":
            q = self._per_head(self.q_norm, q, shape.heads)
            k = self._per_head(self.k_norm, k, shape.kv_heads)
        elif shape.qk_norm == "projection":
            q, k = self.q_norm(q), self.k_norm(k)
        if shape.clip is not None:
            q, k, v = (torch.clamp(t, -shape.clip, shape.clip) for t in (q, k, v))
        return q, k, v

    def _per_head(self, norm: nn.Module, x: Tensor, heads: int) -> Tensor:
        width = self.shape.head_dim
        normed: Tensor = norm(x.view(-1, heads, width))
        return normed.view(-1, heads * width)


class Mix(nn.Module):
    """Output projection, residual, norm, and what follows in the layer outside its experts.

    Inputs: the mixer's output a [n, heads x head_dim], x [n, H]. A MoE layer gives x' (with the
    shared expert's part), the experts' input, and router logits; a dense layer gives x' alone.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.shape = shape
        if isinstance(shape, AttentionLayerShape):
            self.o = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=shape.output_bias)
        else:
            self.o = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.norm = RmsNorm(shape.hidden, shape.epsilon)
        if shape.experts:
            self.router = nn.Linear(shape.hidden, shape.experts, bias=False)
        if shape.mlp_width:
            self.gate = nn.Linear(shape.hidden, shape.mlp_width, bias=False)
            self.up = nn.Linear(shape.hidden, shape.mlp_width, bias=False)
            self.down = nn.Linear(shape.mlp_width, shape.hidden, bias=False)
        if shape.experts and shape.mlp_width:
            self.switch = nn.Linear(shape.hidden, 1, bias=False)

    def forward(self, a: Tensor, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        x, h = self.rows(a, x)
        if not self.shape.experts:
            return x
        return x, h, self.router(h)

    def rows(self, a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x' and h, whatever routes the experts."""
        x = x + self.o(a)
        h = self.norm(x)
        if not self.shape.experts:
            x = x + _swiglu(self, h)
        elif self.shape.mlp_width:
            x = x + _swiglu(self, h) * torch.sigmoid(self.switch(h))
        return x, h


class ConvolutionIn(nn.Module):
    """Input norm and projections: [n, H] -> what is convolved u = b x, and the gate c, [n, H]."""

    def __init__(self, shape: ConvolutionLayerShape) -> None:
        super().__init__()
        self.norm = RmsNorm(shape.hidden, shape.epsilon)
        self.b = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.c = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.x = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.norm(x)
        return self.b(h) * self.x(h), self.c(h)


class ConvolutionMix(Mix):
    """The convolution's taps and gate, then what :class:`Mix` does.

    Inputs: u of the ``kernel`` - 1 positions before, oldest first, u of the position itself, the
    gate c, and x, all [n, H]. A tap is a vector of its own, because XNNPACK multiplies by a row of
    constants as it does for norms, and takes no convolution over a dynamic number of rows.
    """

    def __init__(self, shape: ConvolutionLayerShape) -> None:
        super().__init__(shape)
        self.kernel = shape.kernel
        for i in range(shape.kernel):
            setattr(self, f"tap_{i}", nn.Parameter(torch.empty(shape.hidden)))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        *columns, gate, x = inputs
        taps = [getattr(self, f"tap_{i}") for i in range(self.kernel)]
        total = columns[0] * taps[0]
        for i in range(1, self.kernel):
            total = total + columns[i] * taps[i]
        return super().forward(total * gate, x)


@dataclass(frozen=True, kw_only=True)
class HeadShape(ProgramShape):
    """The head's program."""

    vocab: int
    epsilon: float
    max_rows: int = 1

    def methods(self) -> tuple[Method, ...]:
        return (Method("forward", "", lambda: Head(self), (self.hidden,), self.max_rows),)

    def norm_widths(self) -> set[int]:
        return {self.hidden}


class Head(nn.Module):
    """Final norm and output head: [1, H] -> logits [1, vocabulary]."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.norm = RmsNorm(shape.hidden, shape.epsilon)
        self.linear = nn.Linear(shape.hidden, shape.vocab, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(x))
        return out
