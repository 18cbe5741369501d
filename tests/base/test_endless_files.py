# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files without end, and JSON that takes much more memory than its text."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.base import limits
from moe_mobile.base.files import read_limited
from moe_mobile.base.json_field import parse_object, parse_strict_json, too_many_values
from moe_mobile.base.json_lines import JsonLines
from moe_mobile.bench.store import ResultFile
from moe_mobile.errors import BundleInvalidError, UsageError
from moe_mobile.quality.file import QualityFile
from tests.files import HUGE, endless, pipe, sparse

VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_no_more_is_read_than_the_limit() -> None:
    assert read_limited(io.BytesIO(b"12345"), 5, "name", "remedy") == b"12345"
    with (
        pytest.raises(UsageError, match="is larger than 1 MiB") as caught,
        open("/dev/zero", "rb") as zeros,
    ):
        read_limited(zeros, 1 << 20, "/dev/zero", "Do that")
    assert (caught.value.file, caught.value.remedy) == ("/dev/zero", "Do that")


@pytest.mark.parametrize("open_file", [JsonLines, ResultFile, QualityFile])
def test_a_file_of_lines_has_a_limit(open_file: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    sparse(path)
    more = {} if open_file is JsonLines else {"resume": True}
    for _ in range(2):  # the first leaves no lock behind
        with pytest.raises(UsageError, match="is larger than 256 MiB") as caught:
            open_file(path, **more)
        assert caught.value.file == str(path)
        assert caught.value.remedy
    assert path.stat().st_size == HUGE


@pytest.mark.parametrize("lay", [pipe, endless])
@pytest.mark.parametrize("open_file", [JsonLines, ResultFile, QualityFile])
def test_a_file_of_lines_is_regular(
    open_file: Any, lay: Callable[[pathlib.Path], None], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "rows.jsonl"
    lay(path)
    more = {} if open_file is JsonLines else {"resume": True}
    with pytest.raises(UsageError, match="is not a regular file") as caught:
        open_file(path, **more)
    assert caught.value.file == str(path)


def test_the_turns_next_to_rows_are_a_regular_file(tmp_path: pathlib.Path) -> None:
    turns = tmp_path / "rows.jsonl.turns"
    pipe(turns)
    with pytest.raises(UsageError, match="is not a regular file") as caught:
        ResultFile(tmp_path / "rows.jsonl", resume=False)
    assert caught.value.file == str(turns)


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_a_file_of_lines_has_no_more_lines_than_fit_in_memory(
    end: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "VALUES", 100)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(end.encode() * 101)
    with pytest.raises(UsageError, match="more than 100 lines"):
        JsonLines(path)


@given(VALUES)
def test_all_values_are_counted_before_they_are_parsed(value: Any) -> None:
    def count(one: Any) -> int:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return 1 + sum(map(count, inner))

    data = json.dumps(value).encode()
    # The outermost value comes after nothing.
    assert too_many_values(data, count(value) - 2)


def test_json_of_too_many_values_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", None)
    data = b"[" + b",".join([b"[]"] * (5 << 20)) + b"]"
    assert parse_object(data) is None
    with pytest.raises(BundleInvalidError, match="holds too many values"):
        parse_strict_json(data, "bundle.json")
