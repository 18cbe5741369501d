# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Mixtral: plain grouped-query attention, few large experts, weights always renormalised."""

from __future__ import annotations

from moe_mobile.base.router import RouterSpec
from moe_mobile.model.architecture import Layer, Moe
from moe_mobile.model.config import ConfigView
from moe_mobile.model.families.common import (
    COMMON_MEMBERS,
    PLAIN_ROUTER,
    Family,
    num_layers,
    read_attention,
    read_moe,
    read_window,
)
from moe_mobile.model.names import TensorNames


def _read(view: ConfigView) -> tuple[Moe, list[Layer]]:
    moe = read_moe(view, "num_local_experts", "intermediate_size", RouterSpec("softmax", True))
    attention = read_attention(view, window=read_window(view), derives_null=True)
    layer = Layer(is_moe=True, mixer=attention)
    return moe, [layer] * num_layers(view)


MIXTRAL = Family(
    model_type="mixtral",
    title="Mixtral",
    models=("mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
    notes="sliding windows are honoured; routing weights are always renormalised",
    config="MixtralConfig",
    members=COMMON_MEMBERS.union(
        ["head_dim", "num_experts", "num_local_experts", "router_jitter_noise", "sliding_window"]
    ),
    read=_read,
    # transformers does not read it.
    always={**PLAIN_ROUTER, "norm_topk_prob": (True,)},
    names=TensorNames(
        router=("block_sparse_moe.gate.weight", "mlp.gate.weight"),
        expert_gate="block_sparse_moe.experts.{expert}.w1.weight",
        expert_up="block_sparse_moe.experts.{expert}.w3.weight",
        expert_down="block_sparse_moe.experts.{expert}.w2.weight",
        renamed=("block_sparse_moe.", "mlp."),
    ),
)
