# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Profiles and settings are read from any file: other ones are refused, with their name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_mobile.errors import IoError, UsageError
from moe_mobile.routing.profile import read_profile
from moe_mobile.tune.settings_file import read_settings

Read = Callable[[Path], object]

readers = pytest.mark.parametrize("read", [read_profile, read_settings])


@readers
@pytest.mark.parametrize(
    "data", [b"", b"[]", b"7", b"{", b"\xff", b'{"a": 1, "a": 2}', b"[" * 10**6, b" " * 2**21]
)
def test_refuses_other_content(read: Read, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert caught.value.file == str(path)


@readers
def test_unreadable_files(read: Read, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(IoError) as caught:
            read(path)
        assert caught.value.file == str(path)
