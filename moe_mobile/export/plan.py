# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""From an architecture and options to the shapes of all programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moe_mobile.export.options import Options, check_shape
from moe_mobile.export.programs import (
    AttentionLayerShape,
    ConvolutionLayerShape,
    ExpertShape,
    HeadShape,
    LayerShape,
)
from moe_mobile.model.architecture import Architecture, Convolution, Layer


@dataclass(frozen=True)
class Plan:
    """``layers[i]`` is the shape of layer i's dense program, ``experts[i]`` that of the experts in
    precision i: the bundle's own, then its variants."""

    layers: tuple[LayerShape, ...]
    experts: tuple[ExpertShape, ...]
    head: HeadShape


def make_plan(architecture: Architecture, options: Options) -> Plan:
    """The shapes of a model's programs.

    Raises:
        UnsupportedError: dimensions that the chosen quantization cannot store.
    """
    moe, hidden, epsilon = architecture.moe, architecture.hidden_size, architecture.norm_epsilon

    def layer(spec: Layer) -> LayerShape:
        dense_width = architecture.dense_intermediate_size
        common: dict[str, Any] = {
            "hidden": hidden,
            "epsilon": epsilon,
            "experts": moe.num_experts if spec.is_moe else 0,
            "mlp_width": moe.shared_intermediate_size if spec.is_moe else dense_width,
            "encoding": options.encoding(options.dense),
            "max_rows": options.max_batch,
            "delegate": options.dense_delegate,
        }
        mixer = spec.mixer
        if isinstance(mixer, Convolution):
            return ConvolutionLayerShape(kernel=mixer.kernel, **common)
        return AttentionLayerShape(
            heads=mixer.num_heads,
            kv_heads=mixer.num_kv_heads,
            head_dim=mixer.head_dim,
            qk_norm=mixer.qk_norm.value,
            qkv_bias=mixer.qkv_bias,
            output_bias=mixer.output_bias,
            clip=mixer.clip,
            **common,
        )

    plan = Plan(
        layers=tuple(layer(spec) for spec in architecture.layers),
        experts=tuple(
            ExpertShape(
                hidden=hidden,
                width=moe.intermediate_size,
                encoding=options.encoding(quant),
                max_rows=options.max_batch,
                delegate=options.expert_delegate,
            )
            for quant in (options.experts, *options.variants)
        ),
        head=HeadShape(
            hidden=hidden,
            vocab=architecture.vocab_size,
            epsilon=epsilon,
            encoding=options.encoding(options.head),
            delegate=options.dense_delegate,
        ),
    )
    for shape in dict.fromkeys(plan.layers):
        kind = "MoE layer" if shape.experts else "dense layer"
        check_shape(shape, kind)
    for expert in plan.experts:
        check_shape(expert, "expert")
    check_shape(plan.head, "head")
    return plan
