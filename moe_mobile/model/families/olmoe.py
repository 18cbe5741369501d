# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""OLMoE: queries and keys normalised over their whole projection, optionally clipped."""

from __future__ import annotations

from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import UnsupportedError
from moe_mobile.model.architecture import Layer, Moe, QkNorm
from moe_mobile.model.config import ConfigView
from moe_mobile.model.families.common import (
    COMMON_MEMBERS,
    PLAIN_ROUTER,
    Family,
    num_layers,
    read_attention,
    read_moe,
)


def _read(view: ConfigView) -> tuple[Moe, list[Layer]]:
    bias = view.boolean("attention_bias")
    attention = read_attention(
        view,
        qk_norm=QkNorm.PROJECTION,
        qkv_bias=bias,
        output_bias=bias,
        clip=None if view.get("clip_qkv") is None else view.number("clip_qkv"),
    )
    if attention.query_width != view.integer("hidden_size"):
        # transformers sizes the query norm by hidden_size.
        raise UnsupportedError(
            f"head_dim x num_attention_heads = {attention.query_width} must equal hidden_size",
            file=view.file,
        )
    router = RouterSpec("softmax", view.boolean("norm_topk_prob"))
    moe = read_moe(view, "num_experts", "intermediate_size", router)
    return moe, [Layer(is_moe=True, mixer=attention)] * num_layers(view)


OLMOE = Family(
    model_type="olmoe",
    title="OLMoE",
    models=("allenai/OLMoE-1B-7B-0924", "allenai/OLMoE-1B-7B-0125"),
    notes="query and key norms over the whole projection; clip_qkv is honoured",
    config="OlmoeConfig",
    members=COMMON_MEMBERS.union(
        [
            "attention_bias",
            "clip_qkv",
            "head_dim",
            "norm_topk_prob",
            "num_experts",
            "num_local_experts",
        ]
    ),
    read=_read,
    always=PLAIN_ROUTER,
)
