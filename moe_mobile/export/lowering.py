# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Lowering a program through torch.export and ExecuTorch to its delegate: seconds per program."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from moe_mobile.base.quiet import quiet
from moe_mobile.bundle.manifest import PORTABLE
from moe_mobile.errors import RuntimeFailedError

if TYPE_CHECKING:
    from moe_mobile.export.shapes import Method, ProgramShape


def lower(shape: ProgramShape, weights: Mapping[str, torch.Tensor]) -> bytes:
    """The program of ``shape`` with these float32 parameters, as the bytes of a ``.pte`` file.

    Raises:
        RuntimeFailedError: a method did not become exactly one call of its delegate.
    """
    with quiet():
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        modules = shape.build(weights)
        programs = {m.name: _trace(modules[m.name], m) for m in shape.methods()}
        del modules
        environments = [_shape_environment(program) for program in programs.values()]
        edge = to_edge_transform_and_lower(
            programs,
            partitioner=_partitioners(shape.delegate),
            compile_config=EdgeCompileConfig(
                _check_ir_validity=False, preserve_ops=_whole_operators(shape.delegate)
            ),
        )
        del programs
        if shape.delegate != PORTABLE:
            for method in shape.methods():
                _require_one_partition(edge.exported_program(method.name), method.name)
        manager = edge.to_executorch()
        del edge
        data = bytes(manager.buffer)
        del manager
        for environment in environments:
            # Caches of torch that outlive everything else, and hold the program's constants.
            if environment is not None:
                environment.fake_tensor_cache.clear()
        gc.collect()
        return data


def _partitioners(delegate: str) -> list[Any]:
    if delegate == PORTABLE:
        return []
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()]


def _whole_operators(delegate: str) -> list[torch._ops.OpOverload]:
    """Operators to leave whole. A partitioner names its own. If ExecuTorch's kernels got a linear
    layer in parts, they would transpose the weights in each call."""
    return [torch.ops.aten.linear.default] if delegate == PORTABLE else []


def _shape_environment(program: torch.export.ExportedProgram) -> Any:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode.shape_env
    return None


def _trace(module: torch.nn.Module, method: Method) -> torch.export.ExportedProgram:
    # Two rows: a single one would be specialised.
    rows = min(2, method.max_rows)
    inputs = tuple(torch.zeros(rows, width) for width in method.input_widths)
    if method.max_rows == 1:
        return torch.export.export(module, inputs)
    dim = torch.export.Dim("n", min=1, max=method.max_rows)
    # By tensor: a module may take any number (*inputs).
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in inputs:
        shapes[tensor] = {0: dim}
    return torch.export.export(module, inputs, dynamic_shapes=shapes)


def _require_one_partition(program: torch.export.ExportedProgram, method: str) -> None:
    calls = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    others = [c for c in calls if "executorch_call_delegate" not in c and "getitem" not in c]
    delegates = len([c for c in calls if "executorch_call_delegate" in c])
    if delegates != 1 or others:
        raise RuntimeFailedError(
            f"method {method} became {delegates} delegate calls and {len(others)} other operators "
            f"({', '.join(others[:3])}) instead of exactly one call",
            remedy="This is a bug, or another version of ExecuTorch than this package expects",
        )
