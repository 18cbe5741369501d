# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a model is, independent of its family: the description that the export works from.

A family adapter (``moe_mobile.model.families``) turns a Hugging Face configuration into one of
these, or refuses. Nothing here knows about files or weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from moe_mobile.base.router import RouterSpec


class QkNorm(Enum):
    """Where queries and keys are normalised: nowhere, per head, or over the whole projection."""

    NONE = "none"
    HEAD = "head"
    PROJECTION = "projection"


@dataclass(frozen=True)
class Rope:
    """Rotation of pairs (i, i + r/2) of the first r = 2 * len(inverse_frequencies) elements.

    ``inverse_frequencies`` are radians per position; ``amplitude`` multiplies sine and cosine.
    """

    inverse_frequencies: tuple[float, ...]
    amplitude: float


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention, a layer's mixer.

    ``scale`` multiplies the scores; ``clip`` bounds |q|, |k|, |v|. ``window`` 0 sees everything
    before; w sees itself and the w - 1 positions before it.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope
    qk_norm: QkNorm = QkNorm.NONE
    qkv_bias: bool = False
    output_bias: bool = False
    clip: float | None = None
    window: int = 0

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True)
class Convolution:
    """A gated short causal convolution over positions, a layer's mixer, as LFM2 has it.

    With b, c and x projections of the layer's normed input, each ``hidden_size`` wide, it gives
    the projection of c times the convolution of b x: ``kernel`` taps for each column.
    """

    kernel: int


@dataclass(frozen=True)
class Moe:
    """Routed experts (SwiGLU) and an optional shared expert with a sigmoid gate.

    ``router`` is without its bias; ``router_bias``: the checkpoint holds one for each layer with
    experts. ``shared_intermediate_size`` 0 means that there is no shared expert.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    router: RouterSpec
    router_bias: bool = False
    shared_intermediate_size: int = 0


@dataclass(frozen=True)
class Layer:
    """One decoder layer: what mixes its positions, and whether its MLP has experts."""

    is_moe: bool
    mixer: Attention | Convolution


@dataclass(frozen=True)
class Architecture:
    """A decoder-only Mixture-of-Experts model. All widths are in elements."""

    family: str
    name: str
    vocab_size: int
    hidden_size: int
    context_length: int
    norm_epsilon: float
    dense_intermediate_size: int
    tied_embedding: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    moe: Moe
    layers: tuple[Layer, ...]

    @property
    def attention(self) -> Attention:
        """That of the first layer which has attention, without its window."""
        mixers = (layer.mixer for layer in self.layers)
        first = next(mixer for mixer in mixers if isinstance(mixer, Attention))
        return replace(first, window=0)
