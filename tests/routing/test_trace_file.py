# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Traces survive a file; other and damaged files are refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import IoError, MoeMobileError, UnsupportedError, UsageError
from moe_mobile.routing.trace import (
    METADATA,
    Trace,
    check_prompt,
    check_tokens,
    read_trace,
    split,
    write_trace,
)
from tests.routing.traces import trace_of


def example(**changes: Any) -> Trace:
    """Five tokens in two sequences, through two MoE layers of four experts."""
    logits = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float32)
    members = {"sequences": (3, 2), "layers": (1, 3), "precision": "8da4w"}
    return dataclasses.replace(trace_of(logits, **members), **changes)


@st.composite
def routers(draw: st.DrawFn, layers: int, experts: int) -> RouterSpec:
    score, renormalize = draw(st.sampled_from(["softmax", "sigmoid", "relu"])), draw(st.booleans())
    numbers = st.floats(-2, 2, width=32)
    row = st.lists(numbers, min_size=experts, max_size=experts).map(tuple)
    bias = st.lists(row, min_size=layers, max_size=layers).map(tuple)
    return RouterSpec(
        score,
        renormalize,
        scale=draw(st.sampled_from([1.0, 2.5])),
        epsilon=draw(st.sampled_from([0.0, 1e-20])) if renormalize else 0.0,
        groups=experts,
        top_groups=experts,
        bias=draw(st.sampled_from([()]) | bias) if score == "sigmoid" else (),
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    sequences = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    layers = draw(st.lists(st.integers(0, 4095), min_size=1, max_size=3, unique=True))
    experts = draw(st.integers(1, 5))
    shape = (sum(sequences), len(layers), experts)
    values = st.floats(width=32, allow_nan=False, allow_infinity=False)
    logits = draw(st.lists(values, min_size=1, max_size=60))
    ids = draw(st.lists(st.integers(0, 2**32 - 1), min_size=shape[0], max_size=shape[0]))
    return example(
        router_logits=np.resize(np.array(logits, np.float32), shape),
        token_ids=np.array(ids, np.uint32),
        sequences=tuple(sequences),
        layers=tuple(sorted(layers)),
        top_k=draw(st.integers(1, experts)),
        router=draw(routers(len(layers), experts)),
        source=draw(st.sampled_from(["engine", "transformers"])),
        prompt_tokens=draw(st.integers(0, 9)),
        model=draw(st.sampled_from(["m", "Modell ä", "x" * 200])),
    )


@given(trace=traces())
def test_a_trace_survives_a_file(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    assert write_trace(path, trace) == path.stat().st_size
    read = read_trace(path)
    for field in dataclasses.fields(Trace):
        before, after = getattr(trace, field.name), getattr(read, field.name)
        if isinstance(before, np.ndarray):
            assert before.tobytes() == after.tobytes()
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
        else:
            assert before == after
    assert [span.stop - span.start for span in read.spans()] == list(trace.sequences)


def _strided(array: NDArray[Any]) -> NDArray[Any]:
    """The same values, with others between them in memory."""
    wide = np.repeat(array, 3, axis=-1)
    wide[..., 1::3] = wide[..., 2::3] = 77
    return wide[..., ::3]


def _sliced(array: NDArray[Any]) -> NDArray[Any]:
    padded = np.concatenate([array, array + 1], axis=-1)
    return padded[..., : array.shape[-1]]


LAID_OUT: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "sliced": _sliced,
    "Fortran": np.asfortranarray,
    "strided": _strided,
    "reversed": lambda array: array[::-1].copy()[::-1],
    "backwards in the last axis": lambda array: array[..., ::-1].copy()[..., ::-1],
    "transposed": lambda array: array.T.copy().T,
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
}


@pytest.mark.parametrize("layout", LAID_OUT)
def test_arrays_are_written_whatever_their_layout(layout: str, tmp_path: Path) -> None:
    plain = example()
    logits, ids = (LAID_OUT[layout](array) for array in (plain.router_logits, plain.token_ids))
    write_trace(tmp_path / "trace", example(router_logits=logits, token_ids=ids))
    read = read_trace(tmp_path / "trace")
    np.testing.assert_array_equal(read.router_logits, logits)
    np.testing.assert_array_equal(read.token_ids, ids)
    if layout != "broadcast":
        np.testing.assert_array_equal(read.router_logits, plain.router_logits)
        np.testing.assert_array_equal(read.token_ids, plain.token_ids)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    numpys: Any = np.bool_(True)
    numpy = {
        "sequences": np.array([3, 2]),
        "layers": np.array([1, 3], np.uint8),
        "top_k": np.int64(2),
        "prompt_tokens": np.int32(1),
        "router": RouterSpec(renormalize=numpys),
    }
    for name, changes in (("a", numpy), ("b", {"prompt_tokens": 1})):
        write_trace(tmp_path / name, example(**changes))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert example(**numpy).sequences == (3, 2)


def test_equal_traces_are_equal_files_and_replace_one_whole(tmp_path: Path) -> None:
    first, second, link = (tmp_path / name for name in ("a", "b", "link"))
    write_trace(first, example())
    second.write_bytes(b"something else")
    link.symlink_to(second)
    write_trace(link, example())
    assert first.read_bytes() == second.read_bytes()
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "link"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    write_trace(path, example())
    before = path.read_bytes()
    for bad in ("", "x" * 201, "a\nb", "\ud800"):
        with pytest.raises(UsageError) as caught:
            write_trace(path, example(model=bad))
        assert caught.value.file == str(path)
    assert path.read_bytes() == before
    with pytest.raises(IoError, match="Is a directory"):
        write_trace(tmp_path, example())


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"router_logits": np.zeros((5, 2, 4))}, "not float32"),
        ({"router_logits": np.zeros((5, 8), np.float32)}, "shape"),
        ({"router_logits": np.zeros((5, 2, 0), np.float32)}, "shape"),
        ({"router_logits": np.full((5, 2, 4), np.nan, np.float32)}, "NaN"),
        ({"router_logits": np.full((5, 2, 4), [1, -np.inf, np.inf, 1], np.float32)}, "NaN"),
        ({"token_ids": np.zeros(5, np.int64)}, "not uint32"),
        ({"token_ids": np.zeros(4, np.uint32)}, "token_ids"),
        ({"sequences": ()}, "add up"),
        ({"sequences": (3, 3)}, "add up"),
        ({"sequences": (6, -1)}, "add up"),
        ({"layers": (1,)}, "ascending"),
        ({"layers": (3, 1)}, "ascending"),
        ({"layers": (-1, 1)}, "ascending"),
        ({"top_k": 5}, "top_k"),
        ({"top_k": 0}, "top_k"),
        ({"prompt_tokens": -1}, "prompt_tokens"),
        ({"source": "guess"}, "source"),
        ({"router": RouterSpec("tanh")}, "score"),
        ({"router": RouterSpec("sigmoid", bias=((0.0,) * 4,))}, "bias"),
        ({"router": RouterSpec("sigmoid", bias=((0.0,) * 3,) * 2)}, "bias"),
        ({"top_k": 2.0}, "top_k: 2.0 is not a whole number"),
        ({"sequences": (3, 2.0)}, "sequences: 2.0 is not a whole number"),
        ({"router_logits": np.zeros((5, 2, 4), ">f4")}, "not float32"),
    ],
)
def test_a_trace_contradicts_nothing(changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        example(**changes)


def write_raw(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """The example's file, after its tensors and metadata were changed."""
    write_trace(path, example())
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + header_bytes])
    metadata = json.loads(header["__metadata__"][METADATA])
    tensors: dict[str, Any] = {
        "router_logits": example().router_logits,
        "token_ids": example().token_ids,
    }
    change(tensors, metadata)
    path.write_bytes(save(tensors, {METADATA: json.dumps(metadata)}))


@pytest.mark.parametrize(
    ("members", "cause", "kind"),
    [
        ({"version": 2}, "version 2", UnsupportedError),
        ({"scoring": "tanh"}, "tanh", UnsupportedError),
        ({"router": {"score": "relu", "renormalize": True}}, "does not agree", UsageError),
        ({"router": {"score": "softmax"}}, "renormalize", UsageError),
        ({"router": {"score": "softmax", "renormalize": True, "groups": 3}}, "groups", UsageError),
        ({"router": 1}, "router", UsageError),
        ({"version": True}, "version", UsageError),
        ({"layers": [1, "3"]}, r"layers\[1\]", UsageError),
        ({"layers": [1, 4096]}, "4096", UsageError),
        ({"layers": 7}, "array", UsageError),
        ({"sequences": [5, 0]}, "sequences", UsageError),
        ({"sequences": [2**24, 5 - 2**24]}, "sequences", UsageError),
        ({"top_k": 2.0}, "top_k", UsageError),
        ({"top_k": 9}, "top_k", UsageError),
        ({"model": "\x1b[2J"}, "control", UsageError),
        ({"renormalize": 1}, "renormalize", UsageError),
        ({"extra": 1}, "extra", UsageError),
        ({"precision": None}, "precision", UsageError),
    ],
)
def test_hostile_metadata(
    members: dict[str, Any], cause: str, kind: type[MoeMobileError], tmp_path: Path
) -> None:
    path = tmp_path / "trace"
    write_raw(path, lambda tensors, metadata: metadata.update(members))
    with pytest.raises(kind, match=cause) as caught:
        read_trace(path)
    assert caught.value.file == str(path)
    assert caught.value.remedy
    assert "bundle" not in str(caught.value.remedy)


def test_hostile_tensors(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    logits = example().router_logits
    for tensors, cause in (
        ({"router_logits": logits.astype(np.float16)}, "F16"),
        ({"router_logits": logits[0]}, "shape"),
        ({"router_logits": logits * np.float32(np.inf)}, "NaN"),
        ({"token_ids": example().token_ids.astype(np.int32)}, "I32"),
        ({"more": logits}, "more"),
        ({f"t{i}": logits for i in range(99)}, "holds the tensors"),
    ):
        write_raw(path, lambda before, metadata, t=tensors: before.update(t))  # type: ignore[misc]
        with pytest.raises(UsageError, match=cause) as caught:
            read_trace(path)
        assert caught.value.file == str(path)
    path.write_bytes(save({"router_logits": logits}))
    with pytest.raises(UsageError, match="metadata are missing"):
        read_trace(path)


def test_refuses_other_files(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"tokens\n" * 9), ("head", b"\0\0\x20\0" * 4)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError) as caught:
            read_trace(tmp_path / name)
        assert caught.value.file == str(tmp_path / name)
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)
    with pytest.raises(UsageError, match="larger than 16 GiB"):
        read_trace(tmp_path / "large")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for name in ("pipe", ".", "none"):
        with pytest.raises(IoError):
            read_trace(tmp_path / name)


@given(data=st.data())
def test_a_damaged_file_is_refused_or_another_trace(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    write_trace(path, example())
    content = bytearray(path.read_bytes())
    content = content[: data.draw(st.integers(0, len(content)))] or content
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    # Nothing else is raised, and what is read keeps the rules of every trace.
    with contextlib.suppress(UsageError, UnsupportedError):
        assert isinstance(read_trace(path), Trace)


def test_sequences_fill_the_context() -> None:
    assert split(5, 2) == (2, 2, 1)
    assert split(4, 2) == (2, 2)
    assert split(1, 4096) == (1,)


def test_tokens_are_those_of_the_model() -> None:
    check_tokens([0, 9], 10)
    for ids in ([], [10], [-1]):
        with pytest.raises(UsageError):
            check_tokens(ids, 10)


def test_a_prompt_leaves_something_to_decode() -> None:
    check_prompt(0, (1,))
    check_prompt(4, (5, 2))
    for prompt, sequences in ((5, (5, 2)), (9, (1,))):
        with pytest.raises(UsageError, match="nothing is decoded") as caught:
            check_prompt(prompt, sequences)
        assert caught.value.setting == "prompt_tokens"
