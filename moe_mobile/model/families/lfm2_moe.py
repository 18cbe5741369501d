# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""LFM2-MoE: most layers mix positions by a short convolution, the others by attention."""

from __future__ import annotations

from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import UnsupportedError
from moe_mobile.model.architecture import Attention, Convolution, Layer, Moe, QkNorm
from moe_mobile.model.config import ConfigView
from moe_mobile.model.families.common import (
    COMMON_MEMBERS,
    Family,
    layer_kinds,
    read_attention,
    read_moe,
)
from moe_mobile.model.names import TensorNames

_EPSILON = 1e-6


def _read(view: ConfigView) -> tuple[Moe, list[Layer]]:
    view.require("conv_bias", False)
    # The modelling code knows one activation only, and reads its own name for the epsilon alone.
    view.config.hidden_act = view.get("hidden_act") or "silu"
    view.config.rms_norm_eps = view.get("norm_eps")
    mixers: dict[str, Attention | Convolution] = {
        "full_attention": read_attention(view, qk_norm=QkNorm.HEAD),
        "conv": Convolution(view.integer("conv_L_cache", minimum=2, maximum=16)),
    }
    kinds = layer_kinds(view, *mixers)
    dense = view.integer("num_dense_layers", minimum=0)
    if dense >= len(kinds):
        raise UnsupportedError("no layer has experts: this is a dense model", file=view.file)
    renormalize = view.boolean("norm_topk_prob")
    router = RouterSpec(
        "sigmoid",
        renormalize,
        scale=view.number("routed_scaling_factor"),
        epsilon=_EPSILON if renormalize else 0.0,
    )
    bias = view.boolean("use_expert_bias")
    moe = read_moe(view, "num_experts", "moe_intermediate_size", router, router_bias=bias)
    return moe, [Layer(index >= dense, mixers[kind]) for index, kind in enumerate(kinds)]


LFM2_MOE = Family(
    model_type="lfm2_moe",
    title="LFM2-MoE",
    models=("LiquidAI/LFM2-8B-A1B",),
    notes="short convolutions in most layers; sigmoid router with a bias that only selects",
    config="Lfm2MoeConfig",
    members=COMMON_MEMBERS.union(
        [
            "conv_L_cache",
            "conv_bias",
            "head_dim",
            "layer_types",
            "moe_intermediate_size",
            "norm_eps",
            "norm_topk_prob",
            "num_dense_layers",
            "num_experts",
            "routed_scaling_factor",
            "tie_embedding",
            "use_expert_bias",
        ]
    ),
    read=_read,
    names=TensorNames(
        final_norm="model.embedding_norm.weight",
        input_norm="operator_norm.weight",
        output="self_attn.out_proj",
        query_norm="self_attn.q_layernorm.weight",
        key_norm="self_attn.k_layernorm.weight",
        post_norm="ffn_norm.weight",
        router=("feed_forward.gate.weight",),
        router_bias="feed_forward.expert_bias",
        dense_gate="feed_forward.w1.weight",
        dense_up="feed_forward.w3.weight",
        dense_down="feed_forward.w2.weight",
        expert_gate="feed_forward.experts.{expert}.w1.weight",
        expert_up="feed_forward.experts.{expert}.w3.weight",
        expert_down="feed_forward.experts.{expert}.w2.weight",
        stacked_gate_up="feed_forward.experts.gate_up_proj",
        stacked_down="feed_forward.experts.down_proj",
    ),
)
