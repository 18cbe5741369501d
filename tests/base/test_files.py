# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_mobile.base import limits
from moe_mobile.base.files import HashingFile, open_input, write_file
from moe_mobile.errors import IoError
from tests.files import pipe


def test_the_leftover_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.tmp").write_bytes(b"a long rest of an earlier run")
    write_file(tmp_path / "out", lambda file: file.write(b"new"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"new")]


@pytest.mark.parametrize("link", [Path.hardlink_to, Path.symlink_to])
def test_what_has_the_temporary_name_is_not_written_into(
    link: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """An archive may bring that name as a link to a file that matters."""
    other = tmp_path / "other"
    other.write_bytes(b"the only copy")

    def fill(file: HashingFile) -> None:
        file.write(b"new")
        assert other.read_bytes() == b"the only copy"

    link(tmp_path / "out.tmp", other)
    write_file(tmp_path / "out", fill)
    assert other.read_bytes() == b"the only copy"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_pipe_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its writer is there first, as in `<(...)`, or comes while it is waited for."""
    monkeypatch.setattr(limits, "PIPE_S", 300)
    reading, writing = os.pipe()
    with open(reading, "rb"):
        with open(writing, "wb") as writer:
            writer.write(b"text")
        with open_input(f"/dev/fd/{reading}") as file:
            assert file.read() == b"text"
    path = tmp_path / "pipe"
    pipe(path)
    with (
        open_input(path) as file,
        subprocess.Popen(["sh", "-c", '(printf te; sleep 0.1; printf xt) >"$0"', path]),
    ):
        assert file.name == str(path)
        assert file.read() == b"text"


def test_a_pipe_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PIPE_S", 0.05)
    path = tmp_path / "pipe"
    pipe(path)
    with open_input(path) as file, pytest.raises(IoError, match="nothing was written") as caught:
        file.read(10)
    assert caught.value.file == str(path)
    # A writer that stops in the middle.
    with open(os.open(path, os.O_RDWR), "wb", buffering=0) as writer, open_input(path) as file:
        writer.write(b"te")
        with pytest.raises(IoError, match="nothing was written"):
            file.read()
    (tmp_path / "file").write_bytes(b"text")
    with open_input(tmp_path / "file") as file:
        assert file.read() == b"text"
    with pytest.raises(IsADirectoryError):
        open_input(tmp_path)
