# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What an export is asked to do, checked against the model before any work starts."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mobile.bundle.manifest import DELEGATES, PORTABLE, XNNPACK
from moe_mobile.bundle.quantization import (
    DEFAULT_GROUP_SIZE,
    DEFAULT_QUANT,
    EMBEDDINGS,
    GROUP_SIZES,
    KV_DTYPES,
    QUANTS,
    WHOLE_QUANTS,
    Quant,
    QuantizationSettings,
)
from moe_mobile.errors import UnsupportedError, UsageError
from moe_mobile.export.quantization import Encoding
from moe_mobile.export.shapes import ProgramShape

DEFAULT_MAX_BATCH = 256


@dataclass(frozen=True)
class Options:
    """Resolved options: no member is None."""

    experts: str
    variants: tuple[str, ...]
    dense: str
    head: str
    embedding: str
    group_size: int
    kv_dtype: str
    max_batch: int
    dense_delegate: str
    expert_delegate: str

    @property
    def bundle_group_size(self) -> int:
        """What the manifest states for all but the variants: 0 unless one of them is 8da4w."""
        grouped = Quant.INT4.value in (self.experts, self.dense, self.head)
        return self.group_size if grouped else 0

    def encoding(self, quant: str) -> Encoding:
        kind = Quant(quant)
        return Encoding(kind, self.group_size if kind is Quant.INT4 else 0)


def resolve_options(
    quant: str | QuantizationSettings = DEFAULT_QUANT,
    *,
    max_batch: int | None = None,
    dense_delegate: str = XNNPACK,
    expert_delegate: str = XNNPACK,
) -> Options:
    """Options with their defaults filled in; see ``export_bundle``.

    Raises:
        UsageError: an unknown value.
        UnsupportedError: quantized programs for ExecuTorch's own kernels.
    """
    given = quant if isinstance(quant, QuantizationSettings) else QuantizationSettings(quant)
    experts, rest = given.experts_and_dense
    also_quant = given.also_quant
    dense, head = given.dense or rest, given.head or rest
    embedding = given.embedding or ("fp32" if experts == Quant.FP32.value else "int8")
    kv_dtype = given.kv_dtype or ("float32" if dense == Quant.FP32.value else "float16")
    for name, value, known in (
        ("quant", given.quant, WHOLE_QUANTS),
        ("also_quant", experts if also_quant is None else also_quant, QUANTS),
        ("dense", dense, QUANTS),
        ("head", head, QUANTS),
        ("embedding", embedding, EMBEDDINGS),
        ("kv_dtype", kv_dtype, KV_DTYPES),
        ("dense_delegate", dense_delegate, DELEGATES),
        ("expert_delegate", expert_delegate, DELEGATES),
    ):
        if value not in known:
            remedy = f"Use one of {', '.join(known)}"
            raise UsageError(f"invalid value {value!r}", setting=name, remedy=remedy)
    variants = () if also_quant is None else (also_quant,)
    grouped = Quant.INT4.value in (experts, dense, head, *variants)
    group_size = _group_size(given.group_size, grouped=grouped)
    if also_quant == experts:
        raise UsageError(
            f"the experts are in {experts} already",
            setting="also_quant",
            remedy="Name another precision, or leave it out",
        )
    for name, value, delegate in (
        ("quant", experts, expert_delegate),
        ("also_quant", also_quant or Quant.FP32.value, expert_delegate),
        ("dense", dense, dense_delegate),
        ("head", head, dense_delegate),
    ):
        if delegate == PORTABLE and value != Quant.FP32.value:
            raise UnsupportedError(
                f"{value} programs for ExecuTorch's own kernels cannot be made",
                setting=name,
                remedy=f"Use fp32, or the delegate {XNNPACK}",
            )
    max_batch = DEFAULT_MAX_BATCH if max_batch is None else max_batch
    if type(max_batch) is not int or not 1 <= max_batch <= 4096:
        raise UsageError(
            f"invalid value {max_batch!r}", setting="max_batch", remedy="Use 1 to 4096"
        )
    return Options(
        experts=experts,
        variants=variants,
        dense=dense,
        head=head,
        embedding=embedding,
        group_size=group_size,
        kv_dtype=kv_dtype,
        max_batch=max_batch,
        dense_delegate=dense_delegate,
        expert_delegate=expert_delegate,
    )


def _group_size(given: int | None, *, grouped: bool) -> int:
    """The resolved one: 0 if nothing is quantized in groups."""
    if given is None:
        return DEFAULT_GROUP_SIZE if grouped else 0
    if given not in GROUP_SIZES:
        raise UsageError(
            f"invalid value {given!r}",
            setting="group_size",
            remedy=f"Use one of {', '.join(map(str, GROUP_SIZES))}",
        )
    if not grouped:
        raise UsageError(
            f"it is for {Quant.INT4} only, and nothing is quantized so",
            setting="group_size",
            remedy=f"Leave it out, or choose {Quant.INT4} for a part of the model",
        )
    return given


def check_shape(shape: ProgramShape, what: str) -> None:
    """Refuses a program whose layers the group size does not divide."""
    for parameter in shape.parameters():
        group = parameter.encoding.group_size
        if group and parameter.dims[1] % group:
            smaller = [size for size in GROUP_SIZES if parameter.dims[1] % size == 0]
            other = f"`group_size` {smaller[-1]} or " if smaller else ""
            raise UnsupportedError(
                f"{what}: {parameter.name} has {parameter.dims[1]} columns, not a multiple of the "
                f"group size {group}",
                remedy=f"Use {other}quantization 8da8w or fp32 for it",
            )
