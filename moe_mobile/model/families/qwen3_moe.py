# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Qwen3-MoE: queries and keys normalised per head, no shared expert, no attention bias."""

from __future__ import annotations

from moe_mobile.base.router import RouterSpec
from moe_mobile.model.architecture import Layer, Moe, QkNorm
from moe_mobile.model.config import ConfigView
from moe_mobile.model.families.common import (
    COMMON_MEMBERS,
    PLAIN_ROUTER,
    Family,
    read_attention,
    read_moe,
    read_window,
    sparse_layers,
)


def _read(view: ConfigView) -> tuple[Moe, list[Layer]]:
    bias = view.boolean("attention_bias")
    attention = read_attention(
        view, qk_norm=QkNorm.HEAD, qkv_bias=bias, output_bias=bias, window=read_window(view)
    )
    router = RouterSpec("softmax", view.boolean("norm_topk_prob"))
    moe = read_moe(view, "num_experts", "moe_intermediate_size", router)
    return moe, [Layer(sparse, attention) for sparse in sparse_layers(view)]


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    title="Qwen3-MoE",
    models=("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-235B-A22B"),
    notes="query and key norms per head; some layers may be dense",
    config="Qwen3MoeConfig",
    members=COMMON_MEMBERS.union(
        [
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
    ),
    read=_read,
    # Qwen3-Coder's configurations have them.
    always={**PLAIN_ROUTER, "use_qk_norm": (True,)},
)
