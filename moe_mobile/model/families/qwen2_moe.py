# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Qwen2-MoE (Qwen1.5-MoE): biased queries, keys and values, a shared expert behind a gate."""

from __future__ import annotations

from dataclasses import replace

from moe_mobile.errors import CheckpointError, UnsupportedError
from moe_mobile.model.architecture import Architecture, Layer
from moe_mobile.model.config import ConfigView
from moe_mobile.model.families.common import (
    COMMON_MEMBERS,
    Family,
    Source,
    build,
    read_attention,
    read_moe,
    sparse_layers,
)
from moe_mobile.model.names import TensorNames

_MEMBERS = [
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


def _describe(source: Source) -> Architecture:
    view = ConfigView(
        source.raw,
        source.file,
        "transformers.models.qwen2_moe.configuration_qwen2_moe",
        "Qwen2MoeConfig",
        COMMON_MEMBERS.union(_MEMBERS),
    )
    attention = read_attention(view, qkv_bias=view.boolean("qkv_bias"))
    return build(
        source,
        view,
        moe=read_moe(
            view,
            "num_experts",
            "moe_intermediate_size",
            renormalize=view.boolean("norm_topk_prob"),
            shared_width=view.integer("shared_expert_intermediate_size"),
        ),
        layers=[
            Layer(sparse, replace(attention, window=window))
            for sparse, window in zip(sparse_layers(view), _windows(view), strict=True)
        ],
    )


def _windows(view: ConfigView) -> list[int]:
    types, count = view.get("layer_types"), view.integer("num_hidden_layers", maximum=4096)
    if not isinstance(types, list) or len(types) != count:
        raise CheckpointError(f"layer_types must have {count} entries", file=view.file)
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedError(f"layer_types: unknown kind {kind!r}", file=view.file)
    return [view.integer("sliding_window") if kind == "sliding_attention" else 0 for kind in types]


QWEN2_MOE = Family(
    model_type="qwen2_moe",
    title="Qwen2-MoE, Qwen1.5-MoE",
    models=("Qwen/Qwen1.5-MoE-A2.7B", "Qwen/Qwen2-57B-A14B"),
    notes="attention biases; a shared expert behind a sigmoid gate; some layers may be dense",
    describe=_describe,
    names=TensorNames(),
)
