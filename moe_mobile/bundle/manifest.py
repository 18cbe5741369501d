# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``bundle.json`` as dataclasses; docs/bundle-format.md, section 2, says what they mean.

Field names are the JSON's member names. :mod:`moe_mobile.bundle.reader` makes these from a file,
:mod:`moe_mobile.bundle.writer` writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moe_mobile.base.router import RouterSpec
from moe_mobile.bundle.quantization import quantization_name
from moe_mobile.model.architecture import Rope as Rope

FORMAT = "moe-mobile-bundle"
VERSION = 1
MANIFEST_FILE = "bundle.json"
MAX_NAME_BYTES = 200
ALIGNMENT = 16384
"""Expert programs start at multiples of this: Android's larger page size, and O_DIRECT."""
MOST_VARIANTS = 1
"""Further precisions of the experts: engines run them in at most two."""
XNNPACK, PORTABLE = "xnnpack", "portable"
DELEGATES = (XNNPACK, PORTABLE)
"""What runs a program: the ExecuTorch delegate it was lowered for; ``portable`` is none, but
ExecuTorch's own kernels."""
PACKED_DELEGATE = XNNPACK
"""The delegate whose packed weights ``prepare`` keeps."""


@dataclass(frozen=True)
class Model:
    name: str
    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    context_length: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    num_parameters: int
    dense_intermediate_size: int


@dataclass(frozen=True)
class Attention:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope
    kv_dtype: str


@dataclass(frozen=True)
class Moe:
    num_experts: int
    top_k: int
    intermediate_size: int
    router: RouterSpec


@dataclass(frozen=True)
class Quantization:
    """Formats of the weights, such as ``8da4w``; ``group_size``: weights that share a scale."""

    experts: str
    dense: str
    head: str
    embedding: str
    group_size: int

    @property
    def name(self) -> str:
        """Of experts, dense programs and head in one word, such as ``8da4w+8da8w``."""
        return quantization_name(self.experts, self.dense, self.head)


@dataclass(frozen=True)
class Delegate:
    """``name`` is the delegate of every program that does not name its own."""

    name: str
    executorch: str


@dataclass(frozen=True)
class File:
    """A file of the bundle; ``path`` is relative to the bundle."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DenseProgram(File):
    """A layer's dense program, or the head. ``delegate`` None (absent): the manifest's."""

    delegate: str | None = None


@dataclass(frozen=True)
class Embedding(File):
    dtype: str
    row_bytes: int


@dataclass(frozen=True)
class Program:
    """An expert's program inside its layer's shard."""

    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard(File):
    """A layer's experts in one precision. ``delegate`` None (absent): the manifest's."""

    programs: tuple[Program, ...]
    delegate: str | None = None


@dataclass(frozen=True)
class Variant(Shard):
    """The same experts in another precision. ``group_size`` None (absent): not 8da4w."""

    quantization: str = ""
    group_size: int | None = None


@dataclass(frozen=True)
class Experts(Shard):
    """A layer's experts: in the bundle's own precision, and perhaps in a further one."""

    variants: tuple[Variant, ...] = ()

    @property
    def shards(self) -> tuple[Shard, ...]:
        """By variant, as the engine numbers them; the bundle's own precision is the first."""
        return (self, *self.variants)


@dataclass(frozen=True)
class AttentionMixer:
    """Attention of one layer. None: the value of the manifest's ``attention``."""

    window: int
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    scale: float | None = None
    rope: Rope | None = None
    kind: str = "attention"


@dataclass(frozen=True)
class ConvolutionMixer:
    """A short causal convolution over positions, ``kernel`` taps for each of ``width`` columns."""

    kernel: int
    width: int
    kind: str = "convolution"


Mixer = AttentionMixer | ConvolutionMixer


@dataclass(frozen=True)
class Layer:
    """``experts`` is None (absent) if the layer's MLP is dense."""

    mixer: Mixer
    dense: DenseProgram
    experts: Experts | None

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The experts' shards, by variant; none if the MLP is dense."""
        return self.experts.shards if self.experts else ()


@dataclass(frozen=True)
class Memory:
    dense_bytes: int
    embedding_bytes: int
    expert_bytes: int
    token_cycle_bytes: int
    experts_bytes: int


@dataclass(frozen=True)
class Manifest:
    model: Model
    attention: Attention
    moe: Moe
    quantization: Quantization
    delegate: Delegate
    max_batch: int
    embedding: Embedding
    layers: tuple[Layer, ...]
    head: DenseProgram
    files: tuple[File, ...]
    memory: Memory
    provenance: dict[str, Any]

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Numbers of the layers with experts, ascending."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.experts is not None)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Quantizations that the experts are there in, by variant."""
        variants = next((layer.experts.variants for layer in self.layers if layer.experts), ())
        return (self.quantization.experts, *(variant.quantization for variant in variants))

    def delegate_of(self, program: DenseProgram | Shard) -> str:
        """The delegate of one of this manifest's dense programs or shards."""
        return program.delegate or self.delegate.name

    @property
    def dense_programs(self) -> tuple[DenseProgram, ...]:
        """The dense programs of the layers, then the head."""
        return (*(layer.dense for layer in self.layers), self.head)

    @property
    def dense_delegates(self) -> tuple[str, ...]:
        """Delegates of the dense programs and the head, each once, in the order of DELEGATES."""
        used = {self.delegate_of(program) for program in self.dense_programs}
        return tuple(name for name in DELEGATES if name in used)

    @property
    def expert_delegates(self) -> tuple[str, ...]:
        """Delegates of the experts, likewise."""
        used = {self.delegate_of(shard) for layer in self.layers for shard in layer.shards}
        return tuple(name for name in DELEGATES if name in used)

    @property
    def packs_experts(self) -> bool:
        """Whether ``prepare`` packs the experts: all must have that delegate."""
        return self.expert_delegates == (PACKED_DELEGATE,)

    def all_files(self) -> Iterator[File]:
        """Every file of the bundle but ``bundle.json``."""
        yield self.embedding
        for layer in self.layers:
            yield layer.dense
            yield from layer.shards
        yield self.head
        yield from self.files


def memory_facts(
    *, layers: tuple[Layer, ...], head: File, embedding: Embedding, top_k: int
) -> Memory:
    """The planning facts that follow from the files."""
    sizes = [
        program.bytes for layer in layers for shard in layer.shards for program in shard.programs
    ]
    largest = max(sizes, default=0)
    return Memory(
        dense_bytes=sum(layer.dense.bytes for layer in layers) + head.bytes,
        embedding_bytes=embedding.bytes,
        expert_bytes=largest,
        token_cycle_bytes=sum(layer.experts is not None for layer in layers) * top_k * largest,
        experts_bytes=sum(sizes),
    )
