# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Qwen2-MoE (Qwen1.5-MoE): biased queries, keys and values, a shared expert behind a gate."""

from __future__ import annotations

from dataclasses import replace

from moe_mobile.base.router import RouterSpec
from moe_mobile.model.architecture import Layer, Moe
from moe_mobile.model.config import ConfigView
from moe_mobile.model.families.common import (
    COMMON_MEMBERS,
    PLAIN_ROUTER,
    Family,
    layer_kinds,
    read_attention,
    read_moe,
    sparse_layers,
)


def _read(view: ConfigView) -> tuple[Moe, list[Layer]]:
    attention = read_attention(view, qkv_bias=view.boolean("qkv_bias"))
    moe = read_moe(
        view,
        "num_experts",
        "moe_intermediate_size",
        RouterSpec("softmax", view.boolean("norm_topk_prob")),
        shared_width=view.integer("shared_expert_intermediate_size"),
    )
    windows = [
        view.integer("sliding_window") if kind == "sliding_attention" else 0
        for kind in layer_kinds(view, "full_attention", "sliding_attention")
    ]
    return moe, [
        Layer(sparse, replace(attention, window=window))
        for sparse, window in zip(sparse_layers(view), windows, strict=True)
    ]


QWEN2_MOE = Family(
    model_type="qwen2_moe",
    title="Qwen2-MoE, Qwen1.5-MoE",
    models=("Qwen/Qwen1.5-MoE-A2.7B", "Qwen/Qwen2-57B-A14B"),
    notes="attention biases; a shared expert behind a sigmoid gate; some layers may be dense",
    config="Qwen2MoeConfig",
    members=COMMON_MEMBERS.union(
        [
            "decoder_sparse_step",
            "head_dim",
            "layer_types",
            "max_window_layers",
            "mlp_only_layers",
            "moe_intermediate_size",
            "norm_topk_prob",
            "num_experts",
            "qkv_bias",
            "shared_expert_intermediate_size",
            "sliding_window",
            "use_sliding_window",
        ]
    ),
    read=_read,
    always=PLAIN_ROUTER,
)
