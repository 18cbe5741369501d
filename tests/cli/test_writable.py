# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""No command writes over what it reads, and each knows before its work whether it can write."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from moe_mobile.cli.writable import (
    check_outputs,
    check_writable,
    opened_path,
)
from moe_mobile.errors import MoeMobileError, UsageError
from tests.cli.program import failed
from tests.files import pipe


@pytest.mark.parametrize("name", ["in.txt", "sub/../in.txt", "link.txt", "hard.txt"])
def test_an_output_is_not_an_input(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    text = tmp_path / "in.txt"
    text.write_text("mine")
    (tmp_path / "link.txt").symlink_to(text)
    (tmp_path / "hard.txt").hardlink_to(text)
    with pytest.raises(UsageError, match="the first would replace what the second names") as caught:
        check_outputs({"--csv": None, "--out": tmp_path / name}, {"--other": None, "--file": text})
    assert caught.value.file == str(tmp_path / name)
    assert caught.value.setting == "--out, --file"
    assert caught.value.remedy == "Name another file with --out"
    with pytest.raises(UsageError, match="replace what") as caught:
        check_outputs({"--out": tmp_path / name}, {"TRACE": [tmp_path / "other", text]})
    assert caught.value.setting == "--out, TRACE"


def test_two_outputs_are_two_files_before_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    again = tmp_path / "sub" / ".." / "a"
    with pytest.raises(UsageError, match="both name the same file") as caught:
        check_outputs({"--csv": tmp_path / "a", "--out": None, "--plot": again}, {})
    assert caught.value.setting == "--csv, --plot"
    assert caught.value.file == str(again)


def test_links_that_lead_nowhere_are_compared_as_paths(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    check_outputs({"--csv": loop, "--out": tmp_path / "a"}, {"--file": tmp_path / "b"})
    with pytest.raises(UsageError, match="both name the same file"):
        check_outputs({"--csv": loop, "--out": loop}, {})


def test_a_file_of_an_input_folder_is_not_replaced(tmp_path: Path) -> None:
    part = tmp_path / "deep" / "part"
    part.parent.mkdir()
    check_outputs({"--out": part}, {"BUNDLE": tmp_path})
    part.write_text("weights")
    with pytest.raises(UsageError, match="replace a file in what the second names"):
        check_outputs({"--out": part}, {"BUNDLE": tmp_path})


def test_different_files_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("mine")
    (tmp_path / "b").write_text("of an earlier run")
    check_outputs(
        {"--out": tmp_path / "a", "--csv": tmp_path / "b"},
        {"--file": tmp_path / "in", "MODEL": Path("not/here"), "TRACE": []},
    )
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert left == {"in": "mine", "b": "of an earlier run"}


def test_where_an_open_file_lies(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("mine")
    with open(tmp_path / "in", "rb") as file:
        assert opened_path(file) == tmp_path / "in"
    assert opened_path(io.BytesIO()) == Path("/dev/stdin")
    assert opened_path(None) is None


def test_pipes_and_devices_are_written_into_but_not_continued(tmp_path: Path) -> None:
    check_writable(None, replaced=True)
    pipe(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        check_writable(path, replaced=True)
        with pytest.raises(UsageError, match="is not a regular file") as caught:
            check_writable(path, replaced=False)
        assert caught.value.file == str(path)
    reading, writing = os.pipe()  # as `>(...)` of shells is
    with open(reading, "rb"), open(writing, "wb"):
        check_writable(Path(f"/dev/fd/{writing}"), replaced=True)


def test_a_file_in_place_of_a_folder_is_named(bundle: Path, tmp_path: Path) -> None:
    """Whichever command is to write below it."""
    file = tmp_path / "file.txt"
    file.touch()
    for path, arguments in (
        (file / "out", ("export", "demo")),
        (file / "deep" / "out", ("export", "demo")),
        (file / "rows.jsonl", ("bench", bundle, "-p", 0, "-n", 2, "--out")),
    ):
        error = failed(6, *arguments, path)
        assert (error["file"], error["cause"]) == (
            str(path),
            f"not writable: {file} is not a folder",
        )


@pytest.mark.parametrize("replaced", [True, False])
def test_folders_need_not_exist_if_they_can_be_made(tmp_path: Path, replaced: bool) -> None:
    check_writable(tmp_path / "new" / "folder" / "file", replaced=replaced)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "x", Path("/proc/new/x")):
        with pytest.raises(MoeMobileError) as caught:
            check_writable(path, replaced=replaced)
        assert (caught.value.file, bool(caught.value.remedy)) == (str(path), True)
