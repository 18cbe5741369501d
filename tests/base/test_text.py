# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Sizes in messages: what is asked for is enough, and what there is is really there."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.base.disk import require_space
from moe_mobile.base.text import parse_size, rounded_up, size
from moe_mobile.errors import DiskFullError


@given(bytes=st.integers(0, 1 << 60))
def test_a_size_that_is_asked_for_is_enough(bytes: int) -> None:
    assert parse_size(size(bytes, "down")) <= bytes <= parse_size(size(bytes, "up"))


@given(value=st.floats(allow_nan=False), places=st.integers(0, 6))
def test_a_number_that_is_rounded_up_lets_it_pass(value: float, places: int) -> None:
    assert float(rounded_up(value, places)) >= value


def test_numbers_are_rounded_up_as_they_are_written() -> None:
    assert rounded_up(50.1, 1) == "50.1"
    assert rounded_up(40.04, 1) == "40.1"
    assert rounded_up(44, 1) == "44.0"


@pytest.mark.parametrize(
    ("bytes", "down", "nearest", "up"),
    [
        (1023, "1023 B", "1023 B", "1023 B"),
        (1179648, "1.1 MiB", "1.1 MiB", "1.2 MiB"),
        (1280, "1.2 KiB", "1.2 KiB", "1.3 KiB"),
        (1024**2 - 1, "1023.9 KiB", "1.0 MiB", "1.0 MiB"),
        (1024**2 + 1, "1.0 MiB", "1.0 MiB", "1.1 MiB"),
    ],
)
def test_roundings(bytes: int, down: str, nearest: str, up: str) -> None:
    assert (size(bytes, "down"), size(bytes), size(bytes, "up")) == (down, nearest, up)


def test_room_that_is_needed_never_looks_like_the_room_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 5 << 30
    monkeypatch.setattr(
        os, "statvfs", lambda folder: SimpleNamespace(f_bavail=free - 1, f_frsize=1)
    )
    with pytest.raises(DiskFullError, match=r"about 5\.0 GiB more, and 4\.9 GiB are free"):
        require_space(tmp_path, free)
