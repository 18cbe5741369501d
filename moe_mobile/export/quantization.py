# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Quantizing weights as torchao does, and packing them as ExecuTorch's XNNPACK lowering does.

The arithmetic is that of torchao's ``Int8DynamicActivationIntxWeightConfig`` (symmetric mapping,
float32 scales), bit for bit, without its temporaries. Tests compare with torchao itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moe_mobile.bundle.quantization import Quant

_SMALLEST = torch.finfo(torch.float32).smallest_normal


@dataclass(frozen=True)
class Encoding:
    """Quantization of one weight; ``group_size`` is 0 unless ``quant`` is INT4."""

    quant: Quant
    group_size: int = 0


FLOAT = Encoding(Quant.FP32)


@dataclass(frozen=True)
class QuantizedWeight:
    """``values`` int8 [rows, columns] and ``scales`` float32 [rows, groups]."""

    values: torch.Tensor
    scales: torch.Tensor


def quantize(weight: torch.Tensor, encoding: Encoding) -> QuantizedWeight:
    """Quantizes a float32 matrix [rows, columns]; columns must be a multiple of the group size."""
    rows, columns = weight.shape
    low, high, group = (
        (-8, 7, encoding.group_size) if encoding.quant is Quant.INT4 else (-128, 127, columns)
    )
    groups = weight.reshape(rows, columns // group, group)
    least, most = torch.aminmax(groups, dim=2, keepdim=True)
    scales = torch.maximum(least.neg_(), most) / ((high - low) / 2)
    scales.clamp_(min=_SMALLEST)
    values = groups * (1.0 / scales)
    values = values.round_().clamp_(low, high).to(torch.int8)
    return QuantizedWeight(values.reshape(rows, columns), scales.reshape(rows, columns // group))


def pack(weight: torch.Tensor, encoding: Encoding) -> list[tuple[str, torch.Tensor]]:
    """The constants that lowering makes of a weight: (prefix of the key, bytes as uint8).

    float32 weights and vectors stay as they are. int8: the values, then float32 scales. int4: two
    values per byte (low nibble first, zero point 8), then scales rounded to bfloat16.
    """
    if encoding.quant is Quant.FP32:
        return [("", _bytes(weight))]
    quantized = quantize(weight, encoding)
    if encoding.quant is Quant.INT8:
        return [("", _bytes(quantized.values)), ("scale_", _bytes(quantized.scales))]
    nibbles = quantized.values.view(torch.int16)
    # Little endian: the low byte is the even column. Adding 8 to both cannot carry between them
    # once the low byte is masked.
    low = (nibbles + 8) & 0x0F
    packed = (((nibbles >> 8) + 8) << 4 | low).to(torch.uint8)
    return [("", packed.reshape(-1)), ("scale_", _bytes(quantized.scales.to(torch.bfloat16)))]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
