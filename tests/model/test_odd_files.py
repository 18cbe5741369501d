# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Pipes, devices and files without end where a checkpoint has its small files and its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_mobile.base import limits
from moe_mobile.errors import CheckpointError, IoError
from moe_mobile.model.config import read_json_object
from moe_mobile.model.safetensors import INDEX_FILE, SINGLE_FILE
from moe_mobile.model.source import open_model
from tests.files import endless, pipe, sparse


@pytest.mark.parametrize("make", [pipe, endless, sparse])
@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "merges.txt", INDEX_FILE],
)
def test_what_is_no_small_file_is_refused(
    name: str, make: Callable[[Path], None], demo_copy: Path
) -> None:
    (demo_copy / name).unlink(missing_ok=True)
    if name == INDEX_FILE:
        (demo_copy / SINGLE_FILE).unlink()
    make(demo_copy / name)
    with pytest.raises(CheckpointError if make is sparse else IoError) as refusal:
        open_model(str(demo_copy))
    assert refusal.value.file == str(demo_copy / name)
    size = {"config.json": 4, "generation_config.json": 4, INDEX_FILE: 64}.get(name, 256)
    cause = f"larger than {size} MiB" if make is sparse else "is not a regular file"
    assert cause in refusal.value.cause
    assert refusal.value.remedy


@pytest.mark.parametrize("make", [pipe, endless])
def test_weights_are_in_regular_files(make: Callable[[Path], None], demo_copy: Path) -> None:
    for path in demo_copy.glob("*.safetensors*"):
        path.unlink()
    make(demo_copy / SINGLE_FILE)
    with pytest.raises(CheckpointError, match="not a regular file") as refusal:
        open_model(str(demo_copy))
    assert refusal.value.file == str(demo_copy / SINGLE_FILE)


def test_an_index_names_files_that_can_exist(demo_copy: Path) -> None:
    (demo_copy / SINGLE_FILE).unlink()
    (demo_copy / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "\ud800.safetensors"}}))
    with pytest.raises(CheckpointError, match="bad file name"):
        open_model(str(demo_copy))


@pytest.mark.parametrize("name", ["config.json", INDEX_FILE])
def test_json_of_too_many_values_is_not_parsed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / name
    file.write_bytes(b'{"a":[' + b",".join([b"[]"] * 100) + b"]}")
    monkeypatch.setattr(limits, "VALUES", 100)
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(CheckpointError, match="holds too many values") as refusal:
        read_json_object(file)
    assert refusal.value.file == str(file)
