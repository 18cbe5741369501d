# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Pipes in place of files that are written: each wait ends."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moe_mobile.base import limits
from moe_mobile.base.outputs import write_output
from moe_mobile.errors import IoError
from tests.files import pipe

LARGE = bytes(range(256)) * 4096
"""More than a pipe holds."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pipe(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("late", [False, True])
def test_a_reader_gets_everything(path: Path, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is there first, or comes while it is waited for."""
    monkeypatch.setattr(limits, "PIPE_S", 300)
    found: list[bytes] = []
    reader = threading.Timer(0.2 * late, lambda: found.append(path.read_bytes()))
    reader.start()
    assert write_output(path, LARGE) == len(LARGE)
    reader.join(300)
    assert found == [LARGE]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_pipe_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `>(...)` of shells is."""
    monkeypatch.setattr(limits, "PIPE_S", 300)
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "wb"):
        write_output(f"/dev/fd/{writing}", b"text")
        assert reader.read(4) == b"text"


def test_nobody_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PIPE_S", 0.05)
    with pytest.raises(IoError, match="nothing was read from this pipe") as caught:
        write_output(path, b"text")
    assert caught.value.file == str(path)
    assert caught.value.remedy == "Start what reads it first, or name a file"


def test_a_reader_that_stops(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PIPE_S", 0.05)
    with (
        open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader,
        pytest.raises(IoError, match="nothing was read from this pipe"),
    ):
        write_output(path, LARGE)
    assert reader.closed


def test_a_reader_that_goes_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PIPE_S", 300)

    def read_a_little() -> None:
        with path.open("rb", buffering=0) as file:
            file.read(1)

    reader = threading.Thread(target=read_a_little)
    reader.start()
    with pytest.raises(IoError, match="its reader went away") as caught:
        write_output(path, LARGE)
    reader.join(300)
    assert caught.value.file == str(path)


def test_the_reader_of_standard_output_may_take_its_time() -> None:
    """It may be `less`."""
    program = (
        "import sys; from moe_mobile.base import limits, outputs; limits.PIPE_S = 0.05;"
        "outputs.write_output('/dev/stdout', bytes(1 << 20))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert len(process.stdout.read()) == (1 << 20) - 1
        assert process.wait(1200) == 0
