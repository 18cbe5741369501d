# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Programs made by substitution are byte for byte those that lowering gives.

The reference takes a different road: a float module, torchao's ``quantize_``, then lowering.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_mobile.bundle import read_manifest
from moe_mobile.bundle.manifest import PORTABLE, XNNPACK
from moe_mobile.bundle.quantization import DEFAULT_QUANT, Quant
from moe_mobile.export.options import resolve_options
from moe_mobile.export.plan import make_plan
from moe_mobile.export.programs import AttentionLayerShape, ConvolutionLayerShape, ExpertShape
from moe_mobile.export.quantization import Encoding
from moe_mobile.export.shapes import Method, ProgramShape
from moe_mobile.export.template import Programs, random_weights
from moe_mobile.model.names import TensorRef
from moe_mobile.model.source import open_model
from tests.bundles import FEW_ROWS, BundleMaker, CheckpointMaker
from tests.lowering import lower
from tests.oracles.torchao_model import quantize_linears
from tests.tiny import FAMILIES

QUANTS = ("fp32", "8da8w", "8da4w", DEFAULT_QUANT)


@dataclass(frozen=True, kw_only=True)
class TorchaoShape(ProgramShape):
    """Builds another shape's modules through torchao's ``quantize_``."""

    shape: ProgramShape

    def methods(self) -> tuple[Method, ...]:
        return self.shape.methods()

    def build(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.nn.Module]:
        encoding = self.encoding
        modules = {}
        for method in self.methods():
            module = method.module().eval().requires_grad_(False)
            own = {name: weights[method.prefix + name] for name, _ in module.named_parameters()}
            module.load_state_dict(own)
            if encoding.quant is not Quant.FP32:
                quantize_linears(
                    module, encoding.quant.value, encoding.group_size, keep=("router", "switch")
                )
            modules[method.name] = module
        return modules


def reference(shape: ProgramShape, weights: dict[str, torch.Tensor]) -> bytes:
    common = {field.name: getattr(shape, field.name) for field in fields(ProgramShape)}
    return lower(TorchaoShape(shape=shape, **common), weights)


def combinations() -> list[Any]:
    """Each family, and each format once: the default has both of four and of eight bits. The rest,
    minutes of lowering, is slow."""
    quick = {(family, "fp32") for family in FAMILIES} | {(FAMILIES[0], DEFAULT_QUANT)}
    return [
        pytest.param(*pair, marks=() if pair in quick else pytest.mark.slow)
        for pair in itertools.product(FAMILIES, QUANTS)
    ]


@pytest.mark.parametrize(("family", "quant"), combinations())
def test_a_bundles_programs_are_those_of_lowering(
    family: str, quant: str, checkpoint: CheckpointMaker, bundle: BundleMaker
) -> None:
    model = open_model(checkpoint(family))
    options = resolve_options(quant, max_batch=FEW_ROWS)
    plan = make_plan(model.architecture, options)
    path = bundle(family, quant)
    manifest = read_manifest(path)

    def weights(refs: dict[str, TensorRef]) -> dict[str, torch.Tensor]:
        return {name: model.store.read(ref) for name, ref in refs.items()}

    layer = (path / manifest.layers[1].dense.path).read_bytes()
    assert layer == reference(plan.layers[1], weights(model.tensors.layer(1)))
    # The families differ in their layers: heads and experts of one shape are compared once.
    shapes = make_plan(open_model(checkpoint(FAMILIES[0])).architecture, options)
    if family != FAMILIES[0]:
        assert (plan.head, plan.experts) == (shapes.head, shapes.experts)
        return
    head = (path / manifest.head.path).read_bytes()
    assert head == reference(plan.head, weights(model.tensors.head()))
    shard = manifest.layers[1].experts
    assert shard is not None
    entry = shard.programs[5]
    expert = (path / shard.path).read_bytes()[entry.offset :][: entry.bytes]
    assert expert == reference(plan.experts[0], weights(model.tensors.expert(1, 5)))


def layer_shape(quant: Quant, **changes: object) -> AttentionLayerShape:
    values: dict[str, object] = {
        "hidden": 64,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "epsilon": 1e-6,
        "qk_norm": "head",
        "qkv_bias": True,
        "output_bias": False,
        "clip": None,
        "experts": 8,
        "mlp_width": 0,
        "encoding": Encoding(quant, 32 if quant is Quant.INT4 else 0),
        "max_rows": 16,
    }
    return AttentionLayerShape(**{**values, **changes})  # type: ignore[arg-type]


def untrained(shape: ProgramShape, seed: int) -> dict[str, torch.Tensor]:
    """Norms of ones and zero biases: blocks that lowering merges."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for parameter in shape.parameters():
        weight = torch.randn(parameter.dims, generator=generator)
        if "norm" in parameter.name:
            weight = torch.ones(parameter.dims)
        elif parameter.name.endswith("bias"):
            weight = torch.zeros(parameter.dims)
        weights[parameter.name] = weight
    return weights


def test_equal_parameters_are_merged_as_lowering_merges_them() -> None:
    shape = layer_shape(Quant.FP32)
    programs = Programs(shape)
    # The first makes the template of this pattern, the second is substituted into it.
    programs.make(untrained(shape, 1))
    weights = untrained(shape, 2)
    assert bytes(programs.make(weights)) == reference(shape, weights)
    assert programs.lowered == 1


def test_a_parameter_equal_to_a_constant_of_the_program() -> None:
    """A norm of 1/d has the bytes of the constant that computes the mean."""
    shape = layer_shape(Quant.FP32, qk_norm="none", qkv_bias=False)
    programs = Programs(shape)
    weights = random_weights(shape)
    for seed in (1, 2):
        weights = {name: torch.randn(w.shape) + seed for name, w in weights.items()}
        weights["qkv.norm.weight"] = torch.full((64,), 1 / 64)
        made = programs.make(weights)
    assert bytes(made) == reference(shape, weights)
    assert programs.lowered == 1


@pytest.mark.parametrize(
    "encoding",
    [Encoding(Quant.FP32), pytest.param(Encoding(Quant.INT4, 32), marks=pytest.mark.slow)],
)
def test_an_expert_with_equal_matrices_does_not_disturb_the_template(encoding: Encoding) -> None:
    shape = ExpertShape(hidden=32, width=32, encoding=encoding, max_rows=8)
    programs = Programs(shape)
    ordinary = random_weights(shape)
    odd = {**ordinary, "up.weight": ordinary["gate.weight"]}
    for weights in (ordinary, odd, {n: w + 1 for n, w in odd.items()}):
        assert bytes(programs.make(weights)) == reference(shape, weights)
    assert programs.lowered == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"experts": 0, "mlp_width": 96, "output_bias": True},
        pytest.param(
            {"qk_norm": "none", "output_bias": True, "mlp_width": 96}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"qk_norm": "projection", "clip": 2.0, "qkv_bias": False}, marks=pytest.mark.slow
        ),
    ],
    ids=["dense-mlp-and-output-bias", "output-bias-and-shared-expert", "clipped"],
)
def test_other_layers_are_substituted_too(changes: dict[str, object]) -> None:
    shape = layer_shape(Quant.FP32, **changes)
    generator = torch.Generator().manual_seed(5)
    weights = {p.name: torch.randn(p.dims, generator=generator) for p in shape.parameters()}
    assert bytes(Programs(shape).make(weights)) == reference(shape, weights)


@pytest.mark.parametrize(
    ("program", "parameters"),
    [
        ("layer", "untrained"),
        ("expert", "random"),
        pytest.param("layer", "random", marks=pytest.mark.slow),
        pytest.param("expert", "untrained", marks=pytest.mark.slow),
    ],
)
def test_portable_programs_are_substituted_too(program: str, parameters: str) -> None:
    shape: ProgramShape = (
        layer_shape(Quant.FP32, delegate=PORTABLE)
        if program == "layer"
        else ExpertShape(
            hidden=64, width=32, encoding=Encoding(Quant.FP32), max_rows=8, delegate=PORTABLE
        )
    )
    programs = Programs(shape)
    generator = torch.Generator().manual_seed(5)
    for seed in (1, 2):
        weights = (
            untrained(shape, seed)
            if parameters == "untrained"
            else {p.name: torch.randn(p.dims, generator=generator) for p in shape.parameters()}
        )
        assert bytes(programs.make(weights)) == reference(shape, weights)
    assert programs.lowered == 1


@pytest.mark.parametrize(
    ("quant", "delegate"),
    [
        # A family has such layers in float32.
        pytest.param(Quant.FP32, XNNPACK, marks=pytest.mark.slow),
        pytest.param(Quant.INT4, XNNPACK, marks=pytest.mark.slow),
        (Quant.FP32, PORTABLE),
    ],
)
def test_convolution_layers_are_substituted_too(quant: Quant, delegate: str) -> None:
    shape = ConvolutionLayerShape(
        hidden=64,
        kernel=4,
        epsilon=1e-6,
        experts=0,
        mlp_width=96,
        encoding=Encoding(quant, 32 if quant is Quant.INT4 else 0),
        max_rows=16,
        delegate=delegate,
    )
    generator = torch.Generator().manual_seed(5)
    weights = {p.name: torch.randn(p.dims, generator=generator) for p in shape.parameters()}
    assert bytes(Programs(shape).make(weights)) == reference(shape, weights)


def test_expert_programs_of_one_shard_differ_only_in_their_constants(bundle: BundleMaker) -> None:
    path: Path = bundle("mixtral")
    shard = read_manifest(path).layers[0].experts
    assert shard is not None
    data = (path / shard.path).read_bytes()
    programs = [data[p.offset :][: p.bytes] for p in shard.programs]
    assert len(set(programs)) == len(programs)
    assert len({len(program) for program in programs}) == 1
