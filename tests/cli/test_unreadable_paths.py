# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What is read and cannot even be asked for is a failure of reading, in every command."""

from __future__ import annotations

import os
import pathlib

import pytest

from tests.cli.program import failed

LONG = "a" * 300
COMMANDS = (
    "inspect PATH",
    "verify PATH",
    "prepare PATH",
    "info PATH",
    "bench PATH",
    "deploy PATH",
    "generate PATH -p x",
    "generate b -f PATH",
    "generate b --messages PATH",
    "generate BUNDLE -p x --settings PATH",
    "generate BUNDLE -p x --initial-cache PATH",
    "bench BUNDLE -p 0 -n 1 --router-trace PATH",
    "quality PATH -p x",
    "tune PATH -p x",
    "trace PATH -p x -o t",
    "report PATH",
    "simulate PATH",
    "export PATH b",
)


def _refused(command: str, path: pathlib.Path | str, bundle: pathlib.Path) -> None:
    words = {"PATH": path, "BUNDLE": bundle}
    error = failed(6, *(words.get(word, word) for word in command.split()))
    assert error["cause"].startswith("reading failed: "), error
    assert str(path) in error["file"]
    assert error["remedy"].startswith("Check the path"), error


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_too_long(
    command: str, bundle: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _refused(command, LONG, bundle)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_may_not_be_searched(
    command: str, bundle: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    try:
        _refused(command, closed / "b", bundle)
    finally:
        closed.chmod(0o700)


def test_what_is_written_fails_as_before(tmp_path: pathlib.Path) -> None:
    for arguments in (
        ("export", "demo", tmp_path / LONG),
        ("trace", "demo", "-p", "x", "-o", tmp_path / LONG),
        ("simulate", "t", "--csv", tmp_path / LONG),
    ):
        assert failed(6, *arguments)["cause"].startswith("writing failed: ")
