# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Lazy reading of checkpoints: values against safetensors' own reader, and broken files."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moe_mobile.errors import CheckpointError, MoeMobileError, UnsupportedError
from moe_mobile.model import safetensors
from moe_mobile.model.names import TensorRef
from moe_mobile.model.safetensors import SafetensorsStore

SHAPES = {"matrix": (6, 4), "stack": (3, 6, 4), "vector": (5,)}


def write(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_parts_are_those_of_the_whole(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = {name: t.float() for name, t in load_file(write(tmp_path, dtype)).items()}
    store = SafetensorsStore(tmp_path)
    for name, shape in SHAPES.items():
        assert name in store
        assert torch.equal(store.read(TensorRef(name, shape)), whole[name])
    stack = TensorRef("stack", (3, 6, 4), index=2)
    assert stack.part_shape == (6, 4)
    assert torch.equal(store.read(stack), whole["stack"][2])
    rows = stack.slice_rows(2, 6)
    assert torch.equal(store.read(rows), whole["stack"][2, 2:6])
    assert torch.equal(store.read(rows.slice_rows(1, 3)), whole["stack"][2, 3:5])
    assert torch.equal(
        store.read(TensorRef("matrix", (6, 4)).slice_rows(1, 2)), whole["matrix"][1:2]
    )
    assert store.read(stack).dtype == torch.float32


def edit_header(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


HEADER_EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown dtype": lambda h: h["matrix"].update(dtype="F31"),
    "no offsets": lambda h: h["matrix"].pop("data_offsets"),
    "one offset": lambda h: h["matrix"].update(data_offsets=[0]),
    "negative offset": lambda h: h["matrix"].update(data_offsets=[-96, 0]),
    "fractional offset": lambda h: h["matrix"].update(data_offsets=[0.0, 96.0]),
    "negative size": lambda h: h["matrix"].update(shape=[-6, -4]),
    "true as size": lambda h: h["matrix"].update(shape=[True, 24]),
    "bytes do not fit": lambda h: h["matrix"].update(shape=[6, 5]),
    "beyond the end": lambda h: h["matrix"].update(shape=[2**40, 4], data_offsets=[0, 2**44]),
    "many dimensions": lambda h: h["matrix"].update(shape=[9] * 100_000),
    "long numbers": lambda h: h["matrix"].update(shape=[10**4000] * 8),
    "a long offset": lambda h: h["matrix"].update(data_offsets=[0, 10**4000]),
    "entry is not an object": lambda h: h.update(matrix=3),
}


@pytest.mark.parametrize("name", HEADER_EDITS)
def test_broken_headers_name_file_and_tensor(name: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    edit_header(path, HEADER_EDITS[name])
    with pytest.raises(CheckpointError, match="matrix") as caught:
        SafetensorsStore(tmp_path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("F4", "FP4"),
        ("F6_E2M3", "FP6"),
        ("F6_E3M2", "FP6"),
        ("F8_E4M3FNUZ", "FP8"),
        ("F8_E5M2FNUZ", "FP8"),
    ],
)
def test_the_formats_smallest_types_are_named(dtype: str, kind: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    bits = int(dtype[1])
    edit_header(path, lambda h: h["matrix"].update(dtype=dtype, shape=[8 * 96 // bits]))
    with pytest.raises(UnsupportedError, match=f"{dtype}: .*quantized with {kind}") as caught:
        SafetensorsStore(tmp_path).check(TensorRef("matrix", (6, 4)))
    assert caught.value.file == str(path)
    edit_header(path, lambda h: h["matrix"].update(shape=[8 * 96 // bits + 1]))
    with pytest.raises(CheckpointError, match="bytes do not fit"):
        SafetensorsStore(tmp_path)


def test_sizes_are_bounded_before_they_are_multiplied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product of a shape of millions of numbers takes for ever."""
    path = write(tmp_path)
    edit_header(path, lambda h: h["matrix"].update(shape=[9] * 5_000_000))

    def multiply(shape: Sequence[int]) -> int:
        assert len(shape) <= 8
        return math_prod(shape)

    math_prod = math.prod
    monkeypatch.setattr(math, "prod", multiply)
    with pytest.raises(CheckpointError, match="more than 8 dimensions") as caught:
        SafetensorsStore(tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_header_of_too_many_values_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    edit_header(path, lambda h: h["matrix"].update(more=[[]] * 5_000_000))
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(CheckpointError, match="header holds too many values") as caught:
        SafetensorsStore(tmp_path)
    assert caught.value.file == str(path)


def test_a_huge_name_is_not_told_in_full(tmp_path: Path) -> None:
    path = write(tmp_path)
    edit_header(path, lambda h: h.update({"a" * 5_000_000: 3}))
    with pytest.raises(CheckpointError, match=r"tensor a{150}\.\.\.a{46}: incomplete") as caught:
        SafetensorsStore(tmp_path)
    assert len(str(caught.value)) < 1000


def test_tensors_cover_the_file_without_overlap(tmp_path: Path) -> None:
    path = write(tmp_path)
    intact = path.read_bytes()
    path.write_bytes(intact + b"junk")
    with pytest.raises(CheckpointError, match="4 bytes after the last tensor"):
        SafetensorsStore(tmp_path)
    path.write_bytes(intact)
    edit_header(path, lambda h: h.update(twin=h["matrix"]))
    with pytest.raises(CheckpointError, match=r"overlaps another|belong to no tensor") as caught:
        SafetensorsStore(tmp_path)
    assert caught.value.file == str(path)
    assert caught.value.remedy
    path.write_bytes(intact)
    edit_header(path, lambda h: h.pop("matrix"))
    with pytest.raises(CheckpointError, match="belong to no tensor"):
        SafetensorsStore(tmp_path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    for length in [*range(40), *range(40, len(data), 17), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError) as caught:
            SafetensorsStore(tmp_path)
        assert caught.value.file == str(path)


@settings(max_examples=150)
@given(data=st.data())
def test_flipped_headers_never_crash(data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    path = write(folder)
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        store = SafetensorsStore(folder)
        for name, shape in SHAPES.items():
            assert store.read(TensorRef(name, shape)).shape == shape
    except MoeMobileError as error:
        assert error.file is not None  # noqa: PT017


def test_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    write(tmp_path)
    store = SafetensorsStore(tmp_path)
    with pytest.raises(CheckpointError, match="tensor absent is missing"):
        store.check(TensorRef("absent", (1,)))
    with pytest.raises(CheckpointError, match=r"matrix has shape \[6, 4\].*\[4, 6\]"):
        store.check(TensorRef("matrix", (4, 6)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    tensor = torch.zeros(6, 4)
    tensor[3, 1] = value
    save_file({"matrix": tensor}, tmp_path / "model.safetensors")
    store = SafetensorsStore(tmp_path)
    with pytest.raises(CheckpointError, match="matrix holds NaN or infinity"):
        store.read(TensorRef("matrix", (6, 4)))
    # Other rows can be read.
    part = store.read(TensorRef("matrix", (6, 4)).slice_rows(0, 3))
    assert torch.equal(part, torch.zeros(3, 4))


def test_large_finite_values_are_not_infinite(tmp_path: Path) -> None:
    matrix = torch.full((6, 4), 3e38)
    save_file({"matrix": matrix}, tmp_path / "model.safetensors")
    assert torch.equal(SafetensorsStore(tmp_path).read(TensorRef("matrix", (6, 4))), matrix)


def test_integer_weights_are_unsupported(tmp_path: Path) -> None:
    save_file({"matrix": torch.zeros(6, 4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match="matrix is stored as I8"):
        SafetensorsStore(tmp_path).read(TensorRef("matrix", (6, 4)))


def shard(folder: Path) -> dict[str, str]:
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.ones(3)}, folder / "two.safetensors")
    return {"a": "one.safetensors", "b": "two.safetensors"}


def write_index(folder: Path, index: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_checkpoints(tmp_path: Path) -> None:
    write_index(tmp_path, {"metadata": {}, "weight_map": shard(tmp_path)})
    store = SafetensorsStore(tmp_path)
    assert sorted(store.names()) == ["a", "b"]
    assert store.read(TensorRef("b", (3,))).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"c": "three.safetensors"}, "file of the checkpoint is missing"),
        ({"c": "one.safetensors"}, "tensor c is not in one.safetensors"),
        ({"a": "two.safetensors"}, "tensor a is not in two.safetensors"),
        ({"a": "../one.safetensors"}, "bad file name"),
        ({"a": "/etc/passwd"}, "bad file name"),
        ({"a": ".."}, "bad file name"),
        ({"a": 3}, "bad file name"),
    ],
    ids=str,
)
def test_broken_indices(change: dict[str, Any], cause: str, tmp_path: Path) -> None:
    write_index(tmp_path, {"weight_map": {**shard(tmp_path), **change}})
    with pytest.raises(CheckpointError, match=cause):
        SafetensorsStore(tmp_path)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": 3}])
def test_indices_without_a_map(index: object, tmp_path: Path) -> None:
    write_index(tmp_path, index)
    with pytest.raises(CheckpointError) as caught:
        SafetensorsStore(tmp_path)
    assert str(caught.value.file).endswith("index.json")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds neither"):
        SafetensorsStore(tmp_path)


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path)

    def now() -> tuple[str, str]:
        store = SafetensorsStore(tmp_path)
        return store.fingerprint(), store.written()

    first = now()
    assert now() == first
    os.utime(path, ns=(1, 1))
    touched = now()
    assert touched[0] == first[0]
    assert touched[1] != first[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    assert now() == (now()[0], touched[1])
    assert now()[0] != first[0]
    write(tmp_path, torch.float16)
    assert now()[0] != first[0]


def test_the_fingerprint_reads_little_of_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"large": torch.zeros(3 << 20)}, tmp_path / "model.safetensors")
    store = SafetensorsStore(tmp_path)
    read, lengths = safetensors._read_exactly, []

    def counted(path: Path, offset: int, length: int, what: str) -> bytearray:
        lengths.append(length)
        return read(path, offset, length, what)

    monkeypatch.setattr(safetensors, "_read_exactly", counted)
    store.fingerprint()
    assert 100 < len(lengths) < 200
    assert sum(lengths) < 1 << 20


def test_a_checksum_is_of_the_parts_as_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = load_file(write(tmp_path, torch.bfloat16))
    store = SafetensorsStore(tmp_path)
    stack = TensorRef("stack", (3, 6, 4), index=2)
    refs = [stack.slice_rows(2, 6), TensorRef("vector", (5,))]
    parts = [tensors["stack"][2, 2:6].contiguous(), tensors["vector"]]
    data = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)
    assert store.checksum(refs) == zlib.crc32(data)
    monkeypatch.setattr(safetensors, "_PART_BYTES", 7)
    assert store.checksum(refs) == zlib.crc32(data)
