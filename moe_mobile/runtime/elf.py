# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What an ELF file asks of its loader, read without binutils (System V gABI, chapters 4 and 5)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from moe_mobile.errors import IoError, UnsupportedError, read_error

_MACHINES = {62: "x86_64", 183: "aarch64"}

_MAGIC = b"\x7fELF\x02\x01"
_MACHINE_END = 20

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5

_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")


@dataclass(frozen=True)
class Elf:
    """The facts of one program or shared library.

    Args:
        machine: ``x86_64``, ``aarch64``, or the number of another one.
        interpreter: path of the loader it names, None for a library.
        needed: names of the libraries it needs, in the order it is searched.
    """

    machine: str
    interpreter: str | None
    needed: tuple[str, ...]


def machine_of(path: Path) -> str | None:
    """The instruction set of an ELF file, as in :class:`Elf`; None for other files.

    Raises OSError if it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_MACHINE_END)
    if len(start) < _MACHINE_END or start[: len(_MAGIC)] != _MAGIC:
        return None
    number = int.from_bytes(start[-2:], "little")
    return _MACHINES.get(number, str(number))


def read_elf(path: str | os.PathLike[str]) -> Elf:
    """Read a 64-bit little-endian ELF file.

    Raises IoError if it cannot be read, UnsupportedError if it is not such a file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise read_error(error, path) from error
    if data[: len(_MAGIC)] != _MAGIC:
        raise UnsupportedError("is not a 64-bit little-endian ELF file", file=path)
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError) as error:
        raise IoError(
            "is a damaged ELF file", file=path, remedy="Build or install it again"
        ) from error


def _parse(data: bytes) -> Elf:
    _, machine, _, _, table, _, _, _, size, count, *_ = _HEADER.unpack_from(data)
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    interpreter: str | None = None
    for index in range(count):
        header = _PROGRAM_HEADER.unpack_from(data, table + index * size)
        kind, _, offset, address, _, length, _, _ = header
        if kind == _PT_LOAD:
            loads.append((address, offset, length))
        elif kind == _PT_DYNAMIC:
            dynamic = (offset, length)
        elif kind == _PT_INTERP:
            interpreter = _text(data, offset)
    needed: list[int] = []
    strings = 0
    if dynamic is not None:
        for place in range(dynamic[0], dynamic[0] + dynamic[1], _DYNAMIC.size):
            tag, value = _DYNAMIC.unpack_from(data, place)
            if tag == _DT_NULL:
                break
            if tag == _DT_NEEDED:
                needed.append(value)
            elif tag == _DT_STRTAB:
                strings = _offset(loads, value)
    return Elf(
        machine=_MACHINES.get(machine, str(machine)),
        interpreter=interpreter,
        needed=tuple(_text(data, strings + place) for place in needed),
    )


def _offset(loads: list[tuple[int, int, int]], address: int) -> int:
    """Where in the file the byte that will be loaded at ``address`` lies."""
    for start, offset, length in loads:
        if start <= address < start + length:
            return offset + address - start
    raise ValueError("an address outside the loaded segments")


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
