# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Making programs from one lowered template by substituting its constants.

A ``.pte`` file holds a program's constants in two places: *named data*, keyed by the SHA-256 of
each block (weights, scales, biases), and the *constant segment* (static operands of
multiplications, such as norm weights). Programs of one shape differ in nothing else, as long as
equal blocks are equal in the same places: lowering merges blocks of equal content. So a template
is lowered with random parameters, whose blocks all differ, and serves every program whose blocks
all differ; any other program is lowered itself, and serves those with the same pattern.
The result is byte for byte what lowering the program gives.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from moe_mobile.errors import RuntimeFailedError
from moe_mobile.export import lowering
from moe_mobile.export.quantization import pack
from moe_mobile.export.shapes import ProgramShape


@dataclass(frozen=True)
class Block:
    """One constant of a program: its named-data key, and its bytes (uint8)."""

    key: str
    digest: bytes
    data: torch.Tensor


@dataclass(frozen=True)
class _Place:
    """The position of a block in the template: its data, and (for named data) its key's copies."""

    offset: int
    keys: tuple[int, ...]


def blocks_of(shape: ProgramShape, weights: Mapping[str, torch.Tensor]) -> list[Block]:
    """The constants that lowering makes of these float32 parameters, in a fixed order."""
    found = []
    for parameter in shape.parameters():
        for prefix, data in pack(weights[parameter.name], parameter.encoding):
            digest = hashlib.sha256(data.numpy().data).digest()
            found.append(Block(prefix + digest.hex(), digest, data))
    return found


_LARGE_BYTES = 64 << 20


class Programs:
    """Makes programs of one shape, lowering as few of them as possible."""

    def __init__(self, shape: ProgramShape) -> None:
        self._shape = shape
        self._fixed = [hashlib.sha256(c).digest() for c in shape.fixed_constants()]
        self._templates: dict[tuple[int, ...], _Template] = {}
        # With float32 parameters of this size it matters what else is held while one is lowered.
        self._is_large = 4 * sum(math.prod(p.dims) for p in shape.parameters()) > _LARGE_BYTES
        self.lowered = 0

    def prepare(self) -> None:
        """Lowers the template of a large shape; call it before the first program's parameters are
        read, so that memory holds only one of them at a time."""
        if self._is_large and not self._templates:
            self._lower_random()

    def make(self, weights: Mapping[str, torch.Tensor]) -> bytes:
        """The program with these float32 parameters, as the bytes of a ``.pte`` file."""
        return b"".join(self.pieces(weights, self.blocks(weights)))

    def blocks(self, weights: Mapping[str, torch.Tensor]) -> list[Block]:
        """The program's constants: most of the work. Several threads may call it at once."""
        return blocks_of(self._shape, weights)

    def pieces(
        self, weights: Mapping[str, torch.Tensor], blocks: Sequence[Block]
    ) -> list[memoryview]:
        """The program with these constants, not copied: write it before the next call.

        ``weights`` are asked for only if a program like this has to be lowered.
        """
        pattern = self._pattern(blocks)
        if pattern not in self._templates:
            if len(set(pattern)) == len(pattern):
                self._lower_random()
            else:
                self._lower(weights, blocks)
        return self._templates[pattern].substitute(blocks)

    def _pattern(self, blocks: Sequence[Block]) -> tuple[int, ...]:
        """For each constant the index of the first one with equal content."""
        first: dict[bytes, int] = {}
        digests = [*self._fixed, *(block.digest for block in blocks)]
        return tuple(first.setdefault(digest, index) for index, digest in enumerate(digests))

    def _lower_random(self) -> None:
        weights = random_weights(self._shape)
        self._lower(weights, blocks_of(self._shape, weights))

    def _lower(self, weights: Mapping[str, torch.Tensor], blocks: Sequence[Block]) -> None:
        template = _Template(lowering.lower(self._shape, weights), blocks, self._fixed)
        self._templates[self._pattern(blocks)] = template
        self.lowered += 1


def random_weights(shape: ProgramShape) -> dict[str, torch.Tensor]:
    """Parameters whose blocks all differ; the same ones every time."""
    generator = torch.Generator().manual_seed(20250101)
    return {p.name: torch.rand(p.dims, generator=generator) + 0.5 for p in shape.parameters()}


class _Template:
    """A lowered program without the constants that are substituted."""

    def __init__(self, program: bytes, blocks: Sequence[Block], fixed: Sequence[bytes]) -> None:
        file = _ProgramFile(program)
        # A block that equals a constant of every such program is not substituted.
        places = {
            index: file.find(block)
            for index, block in enumerate(blocks)
            if block.digest not in fixed
        }
        # Equal blocks lie in one place: any of them will do.
        at_offset = {place.offset: index for index, place in places.items()}
        self._order = [at_offset[offset] for offset in sorted(at_offset)]
        ends = [0] + [places[i].offset + blocks[i].data.numel() for i in self._order]
        starts = [places[i].offset for i in self._order] + [len(program)]
        self._gaps = [
            bytearray(program[begin:end]) for begin, end in zip(ends, starts, strict=True)
        ]
        # (gap, position in it, block) of every copy of a key.
        self._keys: list[tuple[int, int, int]] = []
        for index, place in places.items():
            for at in place.keys:
                gap = bisect.bisect_right(ends, at) - 1
                self._keys.append((gap, at - ends[gap], index))

    def substitute(self, blocks: Sequence[Block]) -> list[memoryview]:
        """The program with these constants, in pieces; valid until the next call."""
        for gap, at, index in self._keys:
            key = blocks[index].key.encode()
            self._gaps[gap][at : at + len(key)] = key
        pieces = [memoryview(self._gaps[0])]
        for index, between in zip(self._order, self._gaps[1:], strict=True):
            pieces.append(blocks[index].data.numpy().data)
            pieces.append(memoryview(between))
        return pieces


class _ProgramFile:
    """The layout of a ``.pte`` file, as far as its constants go."""

    def __init__(self, data: bytes) -> None:
        # Private, but its meaning is pinned by the version of ExecuTorch and by our tests.
        from executorch.exir._serialize import _program as pte

        header: Any = pte._get_extended_header(data)
        program: Any = pte._flatbuffer_to_program(data[: header.program_size])
        self._data = data
        self._base: int = header.segment_base_offset
        self._segments: list[Any] = program.segments
        self._named = {entry.key: entry.segment_index for entry in program.named_data or ()}
        named = set(self._named.values())
        # Keys are in the program's own table and in the delegates' payloads.
        self._searched = [(0, header.program_size)] + [
            (self._base + s.offset, self._base + s.offset + s.size)
            for i, s in enumerate(self._segments)
            if i not in named
        ]
        self._constants = self._read_constants(program)

    def find(self, block: Block) -> _Place:
        segment = self._named.get(block.key)
        if segment is not None:
            entry = self._segments[segment]
            self._require(entry.size == block.data.numel())
            offset = self._base + entry.offset
            return _Place(offset, tuple(self._find_key(block.key)))
        offset = self._constants.get(block.digest, -1)
        self._require(offset >= 0)
        return _Place(offset, ())

    def _find_key(self, key: str) -> list[int]:
        pattern = re.compile(re.escape(key.encode()))
        # "scale_<digest>" contains "<digest>": a plain key must not start after an underscore.
        found = [
            match.start()
            for begin, end in self._searched
            for match in pattern.finditer(self._data, begin, end)
            if self._data[match.start() - 1 : match.start()] != b"_"
        ]
        self._require(len(found) >= 2)
        return found

    def _read_constants(self, program: Any) -> dict[bytes, int]:
        """Offset of each tensor in the constant segment by the SHA-256 of its bytes."""
        offsets = program.constant_segment.offsets
        segment = self._segments[program.constant_segment.segment_index] if offsets else None
        found: dict[bytes, int] = {}
        for plan in program.execution_plan:
            for value in plan.values:
                tensor = value.val
                index = getattr(tensor, "data_buffer_idx", 0)
                if type(tensor).__name__ != "Tensor" or index == 0 or segment is None:
                    continue
                size = 4 * math.prod(tensor.sizes)  # all our tensors are float32
                begin = self._base + segment.offset + offsets[index]
                digest = hashlib.sha256(self._data[begin : begin + size]).digest()
                self._require(found.setdefault(digest, begin) == begin)
        return found

    @staticmethod
    def _require(condition: bool) -> None:
        if not condition:
            raise RuntimeFailedError(
                "a lowered program does not hold its constants where they are expected",
                remedy="This is a bug, or another version of ExecuTorch than this package expects",
            )
