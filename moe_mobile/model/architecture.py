# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a model is, independent of its family: the description that the export works from.

A family adapter (``moe_mobile.model.families``) turns a Hugging Face configuration into one of
these, or refuses. Nothing here knows about files or weights.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """Grouped-query attention. ``scale`` multiplies the scores; ``clip`` bounds |q|, |k|, |v|."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope
    qk_norm: QkNorm = QkNorm.NONE
    qkv_bias: bool = False
    output_bias: bool = False
    clip: float | None = None

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.num_kv_heads * self.head_dim


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
    """One decoder layer. ``window`` 0 is full attention; w sees itself and w - 1 before it."""

    is_moe: bool
    window: int = 0


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
    attention: Attention
    moe: Moe
    layers: tuple[Layer, ...]
