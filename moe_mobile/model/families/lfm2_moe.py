# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""LFM2-MoE: most layers mix positions by a short convolution, the others by attention."""

from __future__ import annotations

from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import CheckpointError, UnsupportedError
from moe_mobile.model.architecture import Architecture, Attention, Convolution, Layer, Moe, QkNorm
from moe_mobile.model.config import ConfigView
from moe_mobile.model.families.common import (
    COMMON_MEMBERS,
    Family,
    Source,
    build,
    read_attention,
)
from moe_mobile.model.names import TensorNames

# tie_embedding is the older name of tie_word_embeddings, which transformers reads too.
_MEMBERS = [
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

# What transformers adds to the sum that it divides by (Lfm2MoeTopKRouter).
_EPSILON = 1e-6


def _describe(source: Source) -> Architecture:
    known = COMMON_MEMBERS.union(_MEMBERS) - {"rms_norm_eps"}
    view = ConfigView(
        source.raw,
        source.file,
        "transformers.models.lfm2_moe.configuration_lfm2_moe",
        "Lfm2MoeConfig",
        known,
    )
    view.require("conv_bias", False)
    # The modelling code knows one activation only, and has its own name for the epsilon.
    view.config.hidden_act = view.get("hidden_act") or "silu"
    view.config.rms_norm_eps = view.get("norm_eps")
    mixers = _mixers(view)
    dense = view.integer("num_dense_layers", minimum=0)
    if dense >= len(mixers):
        raise UnsupportedError("no layer has experts: this is a dense model", file=view.file)
    return build(
        source,
        view,
        moe=_read_moe(view),
        layers=[Layer(index >= dense, mixer) for index, mixer in enumerate(mixers)],
    )


def _mixers(view: ConfigView) -> list[Attention | Convolution]:
    types, count = view.get("layer_types"), view.integer("num_hidden_layers", maximum=4096)
    if not isinstance(types, list) or len(types) != count:
        raise CheckpointError(f"layer_types must have {count} entries", file=view.file)
    attention = read_attention(view, qk_norm=QkNorm.HEAD)
    known = {
        "full_attention": attention,
        "conv": Convolution(view.integer("conv_L_cache", minimum=2, maximum=16)),
    }
    for kind in types:
        if kind not in known:
            raise UnsupportedError(f"layer_types: unknown kind {kind!r}", file=view.file)
    return [known[kind] for kind in types]


def _read_moe(view: ConfigView) -> Moe:
    count = view.integer("num_experts", maximum=65536)
    renormalize = view.boolean("norm_topk_prob")
    return Moe(
        num_experts=count,
        top_k=view.integer("num_experts_per_tok", maximum=count),
        intermediate_size=view.integer("moe_intermediate_size"),
        router=RouterSpec(
            "sigmoid",
            renormalize,
            scale=view.number("routed_scaling_factor"),
            epsilon=_EPSILON if renormalize else 0.0,
        ),
        router_bias=view.boolean("use_expert_bias"),
    )


LFM2_MOE = Family(
    model_type="lfm2_moe",
    title="LFM2-MoE",
    models=("LiquidAI/LFM2-8B-A1B",),
    notes="short convolutions in most layers; sigmoid router with a bias that only selects",
    describe=_describe,
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
