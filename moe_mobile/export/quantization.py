# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Quantizing weights as torchao does, and packing them as ExecuTorch's XNNPACK lowering does.

The arithmetic is that of torchao's ``Int8DynamicActivationIntxWeightConfig`` (symmetric mapping,
float32 scales), bit for bit, without its temporaries. Tests compare with torchao itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moe_mobile.bundle.quantization import Quant

_SMALLEST = torch.finfo(torch.float32).smallest_normal
_ELEMENTS_AT_ONCE = 1 << 17
"""Packed at once: the temporaries, of 4 bytes an element, stay in a core's own cache."""


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
    # The larger of most and -least, in half the time of aminmax.
    scales = groups.abs().amax(dim=2, keepdim=True) / ((high - low) / 2)
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
    rows = max(1, _ELEMENTS_AT_ONCE // weight.shape[1])
    parts = [_pack_rows(some, encoding) for some in torch.split(weight, rows)]
    values, scales = (torch.cat(part) for part in zip(*parts, strict=True))
    return [("", values), ("scale_", scales)]


def packed_bytes(dims: Sequence[int], encoding: Encoding) -> int:
    """How many bytes :func:`pack` makes of a weight with these dimensions."""
    elements = math.prod(dims)
    if encoding.quant is Quant.FP32:
        return 4 * elements
    if encoding.quant is Quant.INT8:
        return elements + 4 * dims[0]
    return elements // 2 + 2 * (elements // encoding.group_size)


def _pack_rows(weight: torch.Tensor, encoding: Encoding) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of a quantized weight's values and of its scales."""
    quantized = quantize(weight, encoding)
    if encoding.quant is Quant.INT8:
        return _bytes(quantized.values), _bytes(quantized.scales)
    # Little endian: the low byte of a pair is the even column. In four bits, adding 8 is flipping
    # the highest.
    nibbles = quantized.values.view(torch.int16) & 0x0F0F ^ 0x0808
    packed = (nibbles | nibbles >> 4).to(torch.uint8)
    return packed.reshape(-1), _bytes(quantized.scales.to(torch.bfloat16))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
