# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What an ELF file asks of its loader, read without binutils."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from moe_mobile.base.files import open_regular
from moe_mobile.errors import IoError, UnsupportedError, read_error

_MACHINES = {62: "x86_64", 183: "aarch64"}

_MAGIC = b"\x7fELF\x02\x01"
_MACHINE_END = 20


@dataclass(frozen=True)
class Elf:
    """The facts of one program or shared library.

    Args:
        machine: ``x86_64``, ``aarch64``, or the number of another one.
        interpreter: path of the loader it names, None for a library.
        needed: names of the libraries it needs, in the order it is searched.
        soname: the name by which other files need it, None for a program.
        alignment: the largest page size that it can be loaded with.
        code: where the file holds instructions, as ranges of offsets.
    """

    machine: str
    interpreter: str | None
    needed: tuple[str, ...]
    soname: str | None
    alignment: int
    code: tuple[range, ...]


def machine_of(path: Path) -> str | None:
    """The instruction set of an ELF file, as in :class:`Elf`; None for other files.

    Raises OSError if it cannot be read.
    """
    with open_regular(path) as file:
        return _machine(file)


def _machine(file: BinaryIO) -> str | None:
    start = file.read(_MACHINE_END)
    if len(start) < _MACHINE_END or start[: len(_MAGIC)] != _MAGIC:
        return None
    number = int.from_bytes(start[-2:], "little")
    return _MACHINES.get(number, str(number))


def read_elf(path: str | os.PathLike[str]) -> Elf:
    """Read a 64-bit little-endian ELF file.

    Raises IoError if it cannot be read, UnsupportedError if it is not such a file.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.constants import P_FLAGS
    from elftools.elf.elffile import ELFFile

    interpreter, needed, soname = None, list[str](), None
    alignments, code = list[int](), list[range]()
    try:
        with open_regular(path) as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise UnsupportedError("is not a 64-bit little-endian ELF file", file=path)
            file.seek(0)
            machine = _machine(file) or "unknown"  # then the reader finds it cut
            for segment in ELFFile(file).iter_segments():
                if segment.header.p_type == "PT_INTERP":
                    interpreter = segment.get_interp_name()
                elif segment.header.p_type == "PT_DYNAMIC":
                    needed = [tag.needed for tag in segment.iter_tags("DT_NEEDED")]
                    soname = next((tag.soname for tag in segment.iter_tags("DT_SONAME")), None)
                elif segment.header.p_type == "PT_LOAD":
                    alignments.append(segment.header.p_align)
                    if segment.header.p_flags & P_FLAGS.PF_X:
                        start = segment.header.p_offset
                        code.append(range(start, start + segment.header.p_filesz))
    except OSError as error:
        raise read_error(error, path) from error
    except (ELFError, ValueError, OverflowError, AttributeError) as error:
        raise IoError(
            "is a damaged ELF file", file=path, remedy="Build or install it again"
        ) from error
    alignment = min(alignments, default=0)
    return Elf(machine, interpreter, tuple(needed), soname, alignment, tuple(code))
