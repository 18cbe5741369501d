# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How large a bundle will be."""

from __future__ import annotations

from moe_mobile.bundle.manifest import ALIGNMENT
from moe_mobile.bundle.quantization import embedding_row_bytes
from moe_mobile.export.options import Options
from moe_mobile.export.plan import Plan
from moe_mobile.export.quantization import packed_bytes
from moe_mobile.export.shapes import ProgramShape
from moe_mobile.model.source import Description, OpenModel

_MANIFEST_BYTES_PER_PROGRAM = 256


def bundle_bytes(model: Description | OpenModel, options: Options, plan: Plan) -> int:
    """The length of all files of a bundle, a little more rather than less."""
    architecture = model.architecture
    rows, hidden = architecture.vocab_size, architecture.hidden_size
    experts = sum(layer.is_moe for layer in architecture.layers) * architecture.moe.num_experts
    programs = experts * len(plan.experts) + len(plan.layers) + 1
    return (
        rows * embedding_row_bytes(options.embedding, hidden)
        + sum(_program_bytes(shape) for shape in (*plan.layers, plan.head))
        + sum(experts * _aligned(_program_bytes(shape)) for shape in plan.experts)
        + sum(map(len, model.files.values()))
        + _MANIFEST_BYTES_PER_PROGRAM * programs
    )


def _program_bytes(shape: ProgramShape) -> int:
    """The length of a ``.pte`` file: its constants, and at most so much for the rest."""
    parameters = shape.parameters()
    constants = sum(packed_bytes(p.dims, p.encoding) for p in parameters)
    constants += sum(map(len, shape.fixed_constants()))
    return constants + 1024 * (len(parameters) + 2 * len(shape.methods()))


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
