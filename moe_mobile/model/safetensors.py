# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Lazy reading of (sharded) safetensors checkpoints, a slice at a time.

Bytes are read with ``pread`` into fresh buffers, never mapped: mapped pages would count as ours
and grow with the checkpoint. Headers are checked in full when a checkpoint is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moe_mobile.base import limits
from moe_mobile.base.files import open_regular
from moe_mobile.base.json_field import too_many_values
from moe_mobile.errors import CheckpointError, UnsupportedError, read_error
from moe_mobile.model.config import AGAIN, read_json_object, refuse_pointer
from moe_mobile.model.names import TensorRef
from moe_mobile.model.quantized import ORIGINAL, QUANTIZER_FILES, refuse_type

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_OTHER = "The weights are not those of this config.json, or not all of them: " + AGAIN.lower()
_MAX_HEADER = 100_000_000  # the format's own limit
_MOST_DIMENSIONS = 8
_MOST_BYTES = 1 << 48  # of a tensor, and of a file: more than any has
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
# What the fingerprint samples of each file.
_SAMPLES = 128
_SAMPLE_BYTES = 4096
_PART_BYTES = 8 << 20
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


@dataclass(frozen=True)
class _Stored:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int  # of the data, from the start of the file


class SafetensorsStore:
    """The tensors of a local checkpoint folder.

    Raises:
        CheckpointError: missing or broken files; the message names file and tensor.
        IoError: a file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._tensors: dict[str, _Stored] = {}
        self._headers = hashlib.sha256()
        self._written = hashlib.sha256()
        self._files: list[tuple[Path, int]] = []
        index = folder / INDEX_FILE
        # transformers takes the single file if there are both.
        if (folder / SINGLE_FILE).exists():
            self._add_file(folder / SINGLE_FILE)
        elif index.exists():
            self._open_sharded(folder, index)
        else:
            require_weights([path.name for path in folder.iterdir()], folder)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def names(self) -> Collection[str]:
        """Of all tensors."""
        return self._tensors.keys()

    def fingerprint(self) -> str:
        """Changes when the checkpoint's files do: their headers, their lengths, or what lies at
        places all over them. A copy has the same. A change of a few tensors may not be seen."""
        digest = self._headers.copy()
        for path, size in self._files:
            for begin in range(0, size, max(_SAMPLE_BYTES, size // _SAMPLES)):
                digest.update(
                    _read_exactly(path, begin, min(_SAMPLE_BYTES, size - begin), "the data")
                )
        return digest.hexdigest()

    def written(self) -> str:
        """Changes when one of the files is written, or copied: it follows their modification times.
        As long as it is the same, so is every tensor."""
        return self._written.hexdigest()

    def checksum(self, refs: Iterable[TensorRef]) -> int:
        """The CRC-32 of these parts as they are stored. Raises as :meth:`check`."""
        crc = 0
        for ref in refs:
            stored, begin, size, _ = self._span(ref)
            for at in range(begin, begin + size, _PART_BYTES):
                length = min(_PART_BYTES, begin + size - at)
                crc = zlib.crc32(_read_exactly(stored.file, at, length, ref.name), crc)
        return crc

    def check(self, ref: TensorRef) -> None:
        """Raises a CheckpointError unless ``ref``'s tensor exists with its shape, and an
        UnsupportedError if it is stored in another type than float32, float16 or bfloat16."""
        self._find(ref)

    def read(self, ref: TensorRef) -> torch.Tensor:
        """The part that ``ref`` means, float32, freshly allocated.

        Raises:
            CheckpointError: as :meth:`check`, or the tensor holds NaN or infinity.
            UnsupportedError: as :meth:`check`.
        """
        stored, begin, size, shape = self._span(ref)
        data = _read_exactly(stored.file, begin, size, ref.name)
        dtype = _DTYPES[stored.dtype]
        tensor = torch.frombuffer(data, dtype=dtype).reshape(shape).to(torch.float32)
        if ref.column is not None:
            tensor = tensor[..., ref.column].reshape(ref.part_shape).contiguous()
        # Both are NaN if any element is.
        if not all(map(math.isfinite, (extreme.item() for extreme in torch.aminmax(tensor)))):
            raise CheckpointError(
                f"tensor {ref.name} holds NaN or infinity",
                file=stored.file,
                remedy=f"{AGAIN}; if it was saved so, its training or conversion failed",
            )
        return tensor

    def _span(self, ref: TensorRef) -> tuple[_Stored, int, int, tuple[int, ...]]:
        """What is read for ``ref``: where it begins in its file, its bytes and its shape. A column
        is read with its neighbours."""
        stored = self._find(ref)
        shape = ref.part_shape if ref.column is None else ref.shape
        begin = (ref.index or 0) * math.prod(ref.shape[1:])
        if ref.rows is not None:
            begin += ref.rows[0] * math.prod(shape[1:])
        item = _DTYPES[stored.dtype].itemsize
        return stored, stored.begin + begin * item, math.prod(shape) * item, shape

    def _find(self, ref: TensorRef) -> _Stored:
        stored = self._tensors.get(ref.name)
        if stored is None:
            raise CheckpointError(
                f"tensor {ref.name} is missing", file=self._some_file(), remedy=_OTHER
            )
        # First: quantized weights may have another shape too.
        if stored.dtype not in _DTYPES:
            refuse_type(ref.name, stored.dtype, stored.file)
        if stored.shape != ref.shape:
            raise CheckpointError(
                f"tensor {ref.name} has shape {list(stored.shape)}, but config.json asks for "
                f"{list(ref.shape)}",
                file=stored.file,
                remedy=_OTHER,
            )
        return stored

    def _some_file(self) -> Path | None:
        first = next(iter(self._tensors.values()), None)
        return None if first is None else first.file.parent

    def _open_sharded(self, folder: Path, index: Path) -> None:
        weight_map = read_index(index)
        for file in sorted(set(weight_map.values())):
            self._add_file(folder / file)
        for name, file in weight_map.items():
            stored = self._tensors.get(name)
            if stored is None or stored.file.name != file:
                raise CheckpointError(f"tensor {name} is not in {file}", file=index, remedy=AGAIN)

    def _add_file(self, path: Path) -> None:
        try:
            status = path.stat()
        except FileNotFoundError:
            raise CheckpointError(
                "file of the checkpoint is missing", file=path, remedy=AGAIN
            ) from None
        except OSError as error:
            raise read_error(error, path) from error
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("is not a regular file", file=path, remedy=AGAIN)
        head = _read_exactly(path, 0, min(64, status.st_size), "the header")
        refuse_pointer(head, path)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or not 2 <= length <= min(_MAX_HEADER, status.st_size - 8):
            raise CheckpointError(
                "not a safetensors file, or cut off in its header", file=path, remedy=AGAIN
            )
        text = _read_exactly(path, 8, length, "the header")
        self._headers.update(f"{path.name}:{status.st_size}:".encode())
        self._headers.update(text)
        self._written.update(f"{path.name}:{status.st_size}:{status.st_mtime_ns}:".encode())
        self._files.append((path, status.st_size))
        if too_many_values(text):
            raise CheckpointError("header holds too many values", file=path, remedy=AGAIN)
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"header is not valid JSON: {error}", file=path, remedy=AGAIN
            ) from error
        if not isinstance(header, dict):
            raise CheckpointError("header is not an object", file=path, remedy=AGAIN)
        header.pop("__metadata__", None)
        spans = []
        for name, entry in header.items():
            if name in self._tensors:
                raise CheckpointError(f"tensor {name} is in two files", file=path)
            self._tensors[name] = _entry(path, name, entry, 8 + length, status.st_size)
            spans.append((*entry["data_offsets"], name))
        _check_cover(path, spans, status.st_size - 8 - length)


def read_index(index: Path) -> dict[str, str]:
    """The file of each tensor. Raises CheckpointError for a broken index, and IoError."""
    weight_map = read_json_object(index, limits.INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError("weight_map is missing", file=index, remedy=AGAIN)
    for name, file in weight_map.items():
        if not _is_plain_name(file):
            raise CheckpointError(
                f"weight_map: bad file name {file!r} of {name}", file=index, remedy=AGAIN
            )
    return weight_map


def require_weights(names: Collection[str], file: Path | str) -> None:
    """Raises the error for a folder, or a model of the hub, whose files are ``names``, unless it
    has weights that can be read: it says what it holds instead."""
    if SINGLE_FILE in names or INDEX_FILE in names:
        return
    for name, writer in QUANTIZER_FILES.items():
        if name in names:
            raise UnsupportedError(
                f"the checkpoint is already quantized with {writer} ({name})",
                file=file,
                remedy=ORIGINAL,
            )
    if any(_SHARD.fullmatch(name) for name in names):
        raise CheckpointError(
            f"the index file {INDEX_FILE} is missing",
            file=file,
            remedy="Download it too: it says in which of the files a tensor is",
        )
    raise CheckpointError(
        f"holds neither {SINGLE_FILE} nor {INDEX_FILE}", file=file, remedy=_other_weights(names)
    )


def _other_weights(names: Collection[str]) -> str:
    """What to do about a checkpoint without safetensors."""
    if any(name.endswith(".gguf") for name in names):
        return "GGUF files are quantized for llama.cpp: export from the original checkpoint"
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return "Load it with transformers and save it again: save_pretrained writes safetensors"
    return "Only safetensors checkpoints can be exported"


def _is_plain_name(file: object) -> bool:
    if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
        return False
    try:
        return b"\0" not in file.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _entry(path: Path, name: str, entry: Any, base: int, size: int) -> _Stored:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise CheckpointError(f"tensor {name}: incomplete header entry", file=path, remedy=AGAIN)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(f"tensor {name}: unknown dtype {dtype!r}", file=path, remedy=AGAIN)
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise CheckpointError(f"tensor {name}: bad shape or offsets", file=path, remedy=AGAIN)
    begin, end = offsets
    # Before anything is multiplied: the product of many numbers, or long ones, takes for ever.
    if len(shape) > _MOST_DIMENSIONS or max([*shape, end]) > _MOST_BYTES:
        raise CheckpointError(
            f"tensor {name}: more than {_MOST_DIMENSIONS} dimensions, or a number that no tensor "
            "has in its shape or offsets",
            file=path,
            remedy=AGAIN,
        )
    if 8 * (end - begin) != math.prod(shape) * _BITS[dtype]:
        raise CheckpointError(
            f"tensor {name}: {end - begin} bytes do not fit {dtype} {shape}",
            file=path,
            remedy=AGAIN,
        )
    if base + end > size:
        raise CheckpointError(
            f"tensor {name} lies beyond the end: the file is cut off", file=path, remedy=AGAIN
        )
    return _Stored(path, dtype, tuple(shape), base + begin)


def _check_cover(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """The format wants no byte between tensors, behind them, or in two of them."""
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            what = "overlaps another" if begin < at else "follows bytes that belong to no tensor"
            raise CheckpointError(f"tensor {name} {what}", file=path, remedy=AGAIN)
        at = end
    if at != size:
        raise CheckpointError(
            f"{size - at} bytes after the last tensor belong to no tensor", file=path, remedy=AGAIN
        )


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int and i >= 0 for i in value)


def _read_exactly(path: Path, offset: int, length: int, what: str) -> bytearray:
    """``length`` bytes at ``offset``; a short file is a CheckpointError."""
    data = bytearray(length)
    view, done = memoryview(data), 0
    try:
        with open_regular(path) as file:
            while done < length:
                count = os.preadv(file.fileno(), [view[done : done + (1 << 30)]], offset + done)
                if count == 0:
                    raise CheckpointError(f"cut off inside {what}", file=path, remedy=AGAIN)
                done += count
    except OSError as error:
        raise read_error(error, path) from error
    return data
