# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The quantizations that a bundle's parts can have, and the name of all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Quant(StrEnum):
    """How the weights of a program's large linear layers are stored."""

    FP32 = "fp32"
    INT8 = "8da8w"  # int8 per output channel, activations int8 per token
    INT4 = "8da4w"  # int4 in groups of columns, activations int8 per token


QUANTS = tuple(quant.value for quant in Quant)
"""What one part can be stored in."""
DEFAULT_QUANT = f"{Quant.INT4}+{Quant.INT8}"
"""Experts in four bits, dense programs and head in eight: these are few bytes that every token
uses, and most of the quality that four bits cost (docs/findings/quality.md)."""
WHOLE_QUANTS = (*QUANTS, DEFAULT_QUANT)
"""What an export takes as the quantization of the whole model."""
EMBEDDINGS = ("fp32", "int8")
DEFAULT_GROUP_SIZE = 32
KV_DTYPES = ("float16", "float32")
GROUP_SIZES = (DEFAULT_GROUP_SIZE, 64, 128, 256)
"""Columns that share a scale in ``8da4w``."""


def quantization_name(experts: str, dense: str, head: str) -> str:
    """What the quantization of a model's parts is called in one word: ``8da4w`` if it is that of
    all three, ``8da4w+8da8w`` for experts and the rest, ``8da4w+8da8w+fp32`` for experts, dense
    programs and head."""
    if dense != head:
        return f"{experts}+{dense}+{head}"
    return experts if experts == dense else f"{experts}+{dense}"


def embedding_row_bytes(dtype: str, hidden: int) -> int:
    """Bytes of a row of ``hidden`` values. ``int8`` rows are padded to a multiple of 4 bytes, and
    end with their float32 scale."""
    return 4 * hidden if dtype == "fp32" else -(-hidden // 4) * 4 + 4


@dataclass(frozen=True)
class QuantizationSettings:
    """How an export stores numbers; :func:`moe_mobile.export_bundle` takes it.

    Attributes:
        quant: ``fp32``, ``8da8w`` (int8 per channel) or ``8da4w`` (int4 in groups), activations
            int8 per token: of the experts, and of ``dense`` and ``head`` if they are None. Or
            ``8da4w+8da8w``, the default: the experts in ``8da4w``, the others in ``8da8w``.
        also_quant: a second precision of the experts in the same bundle: engines choose by the
            setting ``precision``.
        dense: one of the first three, for attention, dense and shared MLPs.
        head: the same for the output head.
        embedding: ``fp32`` or ``int8``; None: ``int8`` unless ``quant`` is ``fp32``.
        group_size: columns per scale in ``8da4w``: 32 (None), 64, 128 or 256.
        kv_dtype: of the KV cache, ``float16`` or ``float32``; None: ``float16`` unless ``dense`` is
            ``fp32``. Few models have keys or values beyond 65504, which float16 cannot hold.
    """

    quant: str = DEFAULT_QUANT
    also_quant: str | None = None
    dense: str | None = None
    head: str | None = None
    embedding: str | None = None
    group_size: int | None = None
    kv_dtype: str | None = None

    @property
    def experts_and_dense(self) -> tuple[str, str]:
        """The formats that ``quant`` names: of the experts, and of everything else."""
        experts, _, rest = self.quant.partition("+")
        return experts, rest or experts
