# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Our quantization and packing against torchao's and ExecuTorch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mobile.bundle.quantization import Quant
from moe_mobile.export.quantization import Encoding, pack, quantize
from tests.oracles.torchao_model import quantize_linears

ENCODINGS = [
    Encoding(Quant.INT8),
    Encoding(Quant.INT4, 32),
    Encoding(Quant.INT4, 64),
    Encoding(Quant.INT4, 128),
]


def torchao_tensor(weight: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """What torchao's quantize_ makes of a linear layer with this weight."""
    model = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    model[0].weight = torch.nn.Parameter(weight.clone())
    quantize_linears(model, encoding.quant.value, encoding.group_size)
    return model[0].weight


def awkward_weight(seed: int, magnitude: float) -> torch.Tensor:
    """A matrix [12, 256] with rows of zeros, single signs, halves, and vanishing numbers."""
    weight = torch.randn(12, 256, generator=torch.Generator().manual_seed(seed)) * magnitude
    weight[1] = 0.0
    weight[2] = weight[2].abs()
    weight[3] = -weight[3].abs()
    weight[4] = torch.arange(256) % 16 * 0.5 - 4.0  # lands on halves between int4 values
    weight[5] *= 1e-38
    weight[6, :32] = 1e-45
    return weight


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e37]))
def test_quantize_is_bit_equal_to_torchao(encoding: Encoding, seed: int, magnitude: float) -> None:
    weight = awkward_weight(seed, magnitude)
    expected = torchao_tensor(weight, encoding)
    ours = quantize(weight.clone(), encoding)
    assert torch.equal(ours.values, expected.qdata)  # type: ignore[attr-defined]
    assert torch.equal(ours.scales, expected.scale)  # type: ignore[attr-defined]
    assert not expected.zero_point.any()  # type: ignore[attr-defined]


def test_quantize_leaves_its_input_alone() -> None:
    weight = awkward_weight(1, 1.0)
    copy = weight.clone()
    for encoding in ENCODINGS:
        quantize(weight, encoding)
    assert torch.equal(weight, copy)


@pytest.mark.parametrize("group", [32, 64])
def test_packed_int4_is_what_executorch_packs(group: int) -> None:
    from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor

    weight = torch.randn(24, 128)
    expected = torchao_tensor(weight, Encoding(Quant.INT4, group))
    (weight_key, nibbles), (scale_key, scales) = pack(weight, Encoding(Quant.INT4, group))
    assert (weight_key, scale_key) == ("", "scale_")
    reference = NodeVisitor.convert_to_qc4w(expected.qdata)  # type: ignore[attr-defined]
    assert torch.equal(nibbles, reference.reshape(-1))
    assert torch.equal(scales.view(torch.bfloat16), expected.scale.bfloat16().reshape(-1))  # type: ignore[attr-defined]


def test_all_int4_pairs_pack_without_carry() -> None:
    low, high = torch.meshgrid(torch.arange(-8, 8), torch.arange(-8, 8), indexing="ij")
    pairs = torch.stack((low.reshape(-1), high.reshape(-1)), dim=1).reshape(16, 32).float()
    packed = pack(pairs, Encoding(Quant.INT4, 32))[0][1]
    quantized = quantize(pairs, Encoding(Quant.INT4, 32)).values.reshape(-1).int() + 8
    assert torch.equal(packed & 0x0F, quantized[::2].to(torch.uint8))
    assert torch.equal(packed >> 4, quantized[1::2].to(torch.uint8))
