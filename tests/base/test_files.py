# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_mobile.base.files import HashingFile, write_file


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
