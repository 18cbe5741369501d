# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""From an architecture and options to the shapes of all programs."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mobile.export.options import Options, check_shape
from moe_mobile.export.programs import ConvolutionLayerShape, ExpertShape, HeadShape, LayerShape
from moe_mobile.model.architecture import Architecture, Convolution, Layer


@dataclass(frozen=True)
class Plan:
    """``layers[i]`` is the shape of layer i's dense program, ``experts[i]`` that of the experts in
    precision i: the bundle's own, then its variants."""

    layers: tuple[LayerShape | ConvolutionLayerShape, ...]
    experts: tuple[ExpertShape, ...]
    head: HeadShape


def make_plan(architecture: Architecture, options: Options) -> Plan:
    """The shapes of a model's programs.

    Raises:
        UnsupportedError: dimensions that the chosen quantization cannot store.
    """
    moe = architecture.moe

    def layer(spec: Layer) -> LayerShape | ConvolutionLayerShape:
        experts = moe.num_experts if spec.is_moe else 0
        mlp_width = (
            moe.shared_intermediate_size if spec.is_moe else architecture.dense_intermediate_size
        )
        encoding = options.encoding(options.dense)
        if isinstance(spec.mixer, Convolution):
            return ConvolutionLayerShape(
                hidden=architecture.hidden_size,
                kernel=spec.mixer.kernel,
                epsilon=architecture.norm_epsilon,
                experts=experts,
                mlp_width=mlp_width,
                encoding=encoding,
                max_rows=options.max_batch,
                delegate=options.dense_delegate,
            )
        return LayerShape(
            hidden=architecture.hidden_size,
            heads=spec.mixer.num_heads,
            kv_heads=spec.mixer.num_kv_heads,
            head_dim=spec.mixer.head_dim,
            epsilon=architecture.norm_epsilon,
            qk_norm=spec.mixer.qk_norm.value,
            qkv_bias=spec.mixer.qkv_bias,
            output_bias=spec.mixer.output_bias,
            clip=spec.mixer.clip,
            experts=experts,
            mlp_width=mlp_width,
            encoding=encoding,
            max_rows=options.max_batch,
            delegate=options.dense_delegate,
        )

    plan = Plan(
        layers=tuple(layer(spec) for spec in architecture.layers),
        experts=tuple(
            ExpertShape(
                hidden=architecture.hidden_size,
                width=moe.intermediate_size,
                encoding=options.encoding(quant),
                max_rows=options.max_batch,
                delegate=options.expert_delegate,
            )
            for quant in (options.experts, *options.variants)
        ),
        head=HeadShape(
            hidden=architecture.hidden_size,
            vocab=architecture.vocab_size,
            epsilon=architecture.norm_epsilon,
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
