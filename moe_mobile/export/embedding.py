# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The embedding table: one row per token; the engine reads single rows."""

from __future__ import annotations

import numpy as np
import torch

from moe_mobile.bundle.quantization import embedding_row_bytes

ROWS_AT_ONCE = 4096


def encode_rows(rows: torch.Tensor, dtype: str) -> bytes:
    """Float32 rows [n, hidden] as they lie in ``embedding.bin``.

    int8: element = value x scale, with the row's largest magnitude at 127, unless that is so small
    that the scale would lose its precision as a subnormal number, or be 0.
    """
    if dtype == "fp32":
        return rows.contiguous().numpy().tobytes()
    values = rows.numpy()
    largest = np.abs(values).max(axis=1, keepdims=True)
    least = np.finfo(np.float32).tiny
    scaled = np.maximum(largest / np.float32(127), least)
    scales = np.where(largest > 0, scaled, np.float32(1)).astype("<f4")
    count, hidden = values.shape
    out = np.zeros((count, embedding_row_bytes("int8", hidden)), dtype=np.uint8)
    quantized = np.clip(np.rint(values / scales), -127, 127).astype(np.int8)
    out[:, :hidden] = quantized.view(np.uint8)
    out[:, -4:] = scales.view(np.uint8)
    return out.tobytes()
