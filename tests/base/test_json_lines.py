# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of rows: what stays of them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from moe_mobile.base.json_lines import JsonLines
from moe_mobile.errors import UsageError


def test_a_file_without_a_line_is_deleted_only_by_who_made_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rows"
    lines = JsonLines(path)
    assert path.exists()
    lines.close()
    lines.close()
    assert not path.exists()
    path.touch()
    JsonLines(path).close()
    assert path.exists()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "missing")
    JsonLines(link).close()
    assert link.is_symlink()


def test_a_line_stays_if_its_writer_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    lines = JsonLines(tmp_path / "rows")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lines.append({"a": 1})
    lines.close()
    assert (tmp_path / "rows").read_text() == '{"a":1}\n'


def test_a_file_that_goes_before_it_is_locked_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "rows", fcntl.flock
    other = JsonLines(path)

    def finish_first(file: int, flags: int) -> None:
        monkeypatch.undo()
        other.close()  # between our open and our lock
        lock(file, flags)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    with pytest.raises(UsageError, match="another command is writing there"):
        JsonLines(path)
    JsonLines(path).close()
