# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Prompts, messages and typed lines that have no end, or are larger than any model takes."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable
from typing import IO

import pytest

from moe_mobile.base import limits
from moe_mobile.cli.prompt import read_messages, read_text, typed_messages
from moe_mobile.cli.types import InputFile
from moe_mobile.errors import IoError, UsageError
from tests.files import pipe


def test_an_endless_text_is_refused() -> None:
    refused = pytest.raises(UsageError, match="is larger than 64 MiB")
    with open("/dev/zero", "rb") as endless, refused as caught:
        read_text(endless)
    assert caught.value.file == "/dev/zero"
    assert caught.value.remedy


@pytest.mark.parametrize("read", [read_text, read_messages])
def test_a_text_has_a_limit(
    read: Callable[[IO[bytes]], object], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TEXT_BYTES", 20)
    path = tmp_path / "text"
    path.write_bytes(b'[{"role": "user"}]  ')
    with path.open("rb") as file:
        read(file)
    path.write_bytes(b'[{"role": "user"}]   ')
    with path.open("rb") as file, pytest.raises(UsageError, match="is larger than") as caught:
        read(file)
    assert caught.value.file == str(path)


def test_messages_hold_no_more_values_than_fit_in_memory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "VALUES", 100)
    path = tmp_path / "messages.json"
    path.write_bytes(b"[" + b",".join([b"{}"] * 100) + b"]")
    with path.open("rb") as file, pytest.raises(UsageError, match="too many values"):
        read_messages(file)


def test_a_typed_line_has_a_limit() -> None:
    line = b"a" * (limits.TYPED_BYTES - 1) + b"\n"
    messages = typed_messages(io.BytesIO(line + line))
    assert [len(message) for message in messages] == [limits.TYPED_BYTES - 1] * 2
    refused = pytest.raises(UsageError, match="a line is longer than 1 MiB")
    with open("/dev/zero", "rb") as endless, refused as caught:
        list(typed_messages(endless))
    assert caught.value.file == "standard input"
    assert "--messages" in (caught.value.remedy or "")


def test_a_pipe_without_a_writer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PIPE_S", 0.05)
    path = tmp_path / "text"
    pipe(path)
    file = InputFile().convert(str(path), None, None)
    with pytest.raises(IoError, match="nothing was written to this pipe") as caught:
        read_text(file)
    assert caught.value.file == str(path)


def test_what_cannot_be_read_is_a_typed_error() -> None:
    class Broken(io.BytesIO):
        name = "a file"

        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

        readline = read

    with pytest.raises(IoError, match="Input/output error"):
        read_text(Broken())
    with pytest.raises(IoError, match="Input/output error"):
        list(typed_messages(Broken()))
