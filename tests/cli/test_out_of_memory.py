# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Too little memory on the Python side is an error like others, not a defect."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import resource
import struct
from typing import Any

import numpy as np
import pytest
import torch

from moe_mobile.base import memory
from moe_mobile.cli import cli, models
from moe_mobile.errors import BudgetError
from moe_mobile.routing import trace as traces
from moe_mobile.routing.trace import read_trace, write_trace
from tests.cli.program import run_cli
from tests.routing.traces import a_trace

GIB = 1 << 30


class PanicException(BaseException):
    """As pyo3 names its own."""


def fail(error: BaseException) -> Any:
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


def run(monkeypatch: pytest.MonkeyPatch, callback: Any) -> int:
    monkeypatch.setattr(models.command, "callback", callback)
    with pytest.raises(SystemExit) as ended:
        cli.main(["models", "--json"])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "callback",
    [
        lambda *_, **__: torch.empty(1 << 60, dtype=torch.int8),
        lambda *_, **__: np.ones(1 << 59),
        fail(MemoryError()),
        fail(PanicException("PyObject pointer is null")),
        fail(RuntimeError("std::bad_alloc")),
        fail(OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
)
def test_every_way_to_say_it_is_the_same_error(
    callback: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, callback) == BudgetError.exit_code
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["code"] == "budget"
    assert error["cause"] == "there is not enough memory to run `moe-mobile models`"
    assert "Close other programs" in error["remedy"]
    assert "defect" not in err


@pytest.mark.parametrize("error", [RuntimeError("boom"), PanicException("index out of bounds")])
def test_other_failures_are_defects(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, fail(error)) == 1
    assert "this is a defect of moe-mobile; please report it" in capsys.readouterr().err


def sparse_trace(path: pathlib.Path, length: int) -> None:
    """A valid trace of about so many bytes, of zeros that the disk does not hold."""
    layers, experts = 48, 128
    tokens = length // (4 * layers * experts)
    members = {
        "version": 1, "created_by": "x", "model": "m", "source": "engine", "source_id": "s",
        "precision": "p", "layers": [*range(layers)], "top_k": 8, "renormalize": True,
        "scoring": "softmax", "sequences": [tokens], "prompt_tokens": 0,
    }  # fmt: skip
    end = 4 * tokens * layers * experts
    header = {
        "__metadata__": {"moe_mobile_trace": json.dumps(members)},
        "router_logits": {
            "dtype": "F32", "shape": [tokens, layers, experts], "data_offsets": [0, end],
        },
        "token_ids": {"dtype": "U32", "shape": [tokens], "data_offsets": [end, end + 4 * tokens]},
    }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end + 4 * tokens)


@pytest.mark.parametrize("limit", [4, 8, 12])
def test_a_trace_that_does_not_fit_into_memory(limit: int, tmp_path: pathlib.Path) -> None:
    """Refused before it is read; or while it is, if other things took what was left."""
    sparse_trace(tmp_path / "big", 8 * GIB)

    def within_limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit * GIB, limit * GIB))

    result = run_cli(
        "simulate", tmp_path / "big", "--json", preexec_fn=within_limit,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == BudgetError.exit_code, result.stderr
    error = json.loads(result.stdout)["error"]
    assert error["file"] == str(tmp_path / "big")
    assert error["cause"].startswith("there is not enough memory to read it")
    assert "Traceback" not in result.stderr


def test_a_trace_is_compared_with_what_is_left(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace"
    length = write_trace(path, a_trace(0, 5))
    monkeypatch.setattr(traces, "available_memory", lambda: length - 1)
    with pytest.raises(BudgetError, match=r"to read it: .*, and .* are left") as caught:
        read_trace(path)
    assert caught.value.file == str(path)
    monkeypatch.setattr(traces, "available_memory", lambda: length)
    read_trace(path)


def test_what_is_left_is_within_the_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    free = memory.available_memory()
    assert 0 < free < 1 << 50
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    assert memory.available_memory() == 0
