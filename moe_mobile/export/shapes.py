# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What all kinds of programs share: those of equal shape differ in their constants only.

A shape knows its parameters (names, dimensions, encodings), its methods, the delegate it is lowered
for, and how to build its methods as PyTorch modules. Shapes are hashable: templates are kept by
shape. ``programs.py`` has the shapes of a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moe_mobile.bundle.manifest import XNNPACK
from moe_mobile.bundle.quantization import Quant
from moe_mobile.export.quantization import FLOAT, Encoding, quantize
from moe_mobile.export.rms_norm import mean_constants


@dataclass(frozen=True)
class Parameter:
    """One parameter of a program and how its constants are encoded."""

    name: str
    dims: tuple[int, ...]
    encoding: Encoding


@dataclass(frozen=True)
class Method:
    """One method of a program.

    Attributes:
        name: its name in the program.
        prefix: prefix of its parameters among the program's.
        module: makes the module.
        input_widths: the width of each input [n, width].
        max_rows: largest n; 1 if n is fixed.
    """

    name: str
    prefix: str
    module: Callable[[], nn.Module]
    input_widths: tuple[int, ...]
    max_rows: int


@dataclass(frozen=True, kw_only=True)
class ProgramShape:
    """Base of the shapes.

    Attributes:
        hidden: the model's width H.
        encoding: of the linear layers that do not stay float32.
        max_rows: largest number of rows of a call.
        delegate: what the program is lowered for.
    """

    hidden: int
    encoding: Encoding
    max_rows: int
    delegate: str = XNNPACK

    def methods(self) -> tuple[Method, ...]:
        raise NotImplementedError

    def float_linears(self) -> frozenset[str]:
        """Linear layers that stay float32 in quantized programs."""
        return frozenset()

    def norm_widths(self) -> set[int]:
        return set()

    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters, in the order of the modules' own."""
        found = []
        with torch.device("meta"):
            for method in self.methods():
                for name, value in method.module().named_parameters():
                    full = method.prefix + name
                    owner = full.rsplit(".", 1)[0]
                    quantized = value.dim() == 2 and owner not in self.float_linears()
                    encoding = self.encoding if quantized else FLOAT
                    found.append(Parameter(full, tuple(value.shape), encoding))
        return tuple(found)

    def fixed_constants(self) -> list[bytes]:
        """Constants of such programs that are not parameters."""
        return mean_constants(self.norm_widths())

    def build(self, weights: Mapping[str, Tensor]) -> dict[str, nn.Module]:
        """The methods as modules with these (float32) parameters, quantized as encoded.

        Linear weights take torchao's tensor type, whose linear operation quantizes activations.
        """
        encodings = {parameter.name: parameter.encoding for parameter in self.parameters()}
        modules = {}
        for method in self.methods():
            with torch.device("meta"):
                module = method.module().eval()
            for name, _ in list(module.named_parameters()):
                full = method.prefix + name
                owner_name, _, leaf = name.rpartition(".")
                value = _as_parameter(weights[full], encodings[full])
                setattr(module.get_submodule(owner_name), leaf, value)
            modules[method.name] = module
        return modules


def _as_parameter(weight: Tensor, encoding: Encoding) -> nn.Parameter:
    if encoding.quant is Quant.FP32:
        return nn.Parameter(weight, requires_grad=False)
    from torchao.quantization import IntxUnpackedToInt8Tensor

    group = encoding.group_size or weight.shape[1]
    quantized = quantize(weight, encoding)
    tensor = IntxUnpackedToInt8Tensor(
        qdata=quantized.values,
        scale=quantized.scales,
        zero_point=torch.zeros_like(quantized.scales, dtype=torch.int8),
        target_dtype=getattr(torch, "int4" if encoding.quant is Quant.INT4 else "int8"),
        block_size=(1, group),
        dtype=torch.float32,
        activation_quantization="int8_asym_per_token",
    )
    return nn.Parameter(tensor, requires_grad=False)
