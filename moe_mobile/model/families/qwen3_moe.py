# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Qwen3-MoE: queries and keys normalised per head, no shared expert, no attention bias."""

from __future__ import annotations

from moe_mobile.model.architecture import Architecture, Layer, QkNorm
from moe_mobile.model.config import ConfigView
from moe_mobile.model.families.common import (
    COMMON_MEMBERS,
    Family,
    Source,
    build,
    read_attention,
    read_moe,
    read_window,
    sparse_layers,
)
from moe_mobile.model.names import TensorNames

# max_window_layers is written by Qwen's tools and read by nothing.
_MEMBERS = [
    "attention_bias",
    "decoder_sparse_step",
    "head_dim",
    "max_window_layers",
    "mlp_only_layers",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_experts",
    "num_local_experts",
    "sliding_window",
    "use_sliding_window",
]


def _describe(source: Source) -> Architecture:
    view = ConfigView(
        source.raw,
        source.file,
        "transformers.models.qwen3_moe.configuration_qwen3_moe",
        "Qwen3MoeConfig",
        COMMON_MEMBERS.union(_MEMBERS),
    )
    bias = view.boolean("attention_bias")
    attention = read_attention(
        view, qk_norm=QkNorm.HEAD, qkv_bias=bias, output_bias=bias, window=read_window(view)
    )
    return build(
        source,
        view,
        moe=read_moe(
            view,
            "num_experts",
            "moe_intermediate_size",
            renormalize=view.boolean("norm_topk_prob"),
        ),
        layers=[Layer(sparse, attention) for sparse in sparse_layers(view)],
    )


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    title="Qwen3-MoE",
    models=("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-235B-A22B"),
    notes="query and key norms per head; some layers may be dense",
    describe=_describe,
    names=TensorNames(),
)
