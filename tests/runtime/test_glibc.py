# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""System calls are taken out of glibc's files exactly where they are known to be, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_mobile.errors import UnsupportedError
from moe_mobile.runtime import build_runtime
from moe_mobile.runtime.elf import read_elf
from moe_mobile.runtime.glibc import LIBC, without_refused_calls

SVC = bytes.fromhex("010000d4")  # svc #0
ERROR = bytes.fromhex("a0048092")  # mov x0, #-38, which is -ENOSYS
RSEQ = bytes.fromhex("a82480d2")  # mov x8, #293
BRANCH = bytes.fromhex("01000014")  # b to the next instruction


@pytest.fixture(scope="module")
def libc() -> Path:
    return build_runtime("linux-arm64").folder / "lib" / LIBC


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UnsupportedError) as caught:
        without_refused_calls(path)
    assert caught.value.file == str(path)
    return f"{caught.value.cause} {caught.value.remedy}"


@pytest.mark.parametrize("target", ["linux-arm64", "linux-x86_64"])
def test_only_the_calls_are_changed(target: str) -> None:
    runtime = build_runtime(target)
    for name, least in ((runtime.loader, 2), (f"lib/{LIBC}", 4)):
        before = (runtime.folder / name).read_bytes()
        file = without_refused_calls(runtime.folder / name)
        assert len(file.changes) >= least
        assert len(file.content) == len(before)
        edited = {
            at + i for change in file.changes for at, new in change.edits for i in range(len(new))
        }
        changed = {i for i, (a, b) in enumerate(zip(before, file.content, strict=True)) if a != b}
        assert changed
        assert changed <= edited
        code = read_elf(runtime.folder / name).code
        assert all(any(i in part for part in code) for i in edited)


def test_each_call_becomes_an_error(libc: Path) -> None:
    before, file = libc.read_bytes(), without_refused_calls(libc)
    assert "GLIBC 2." in file.origin
    for change in file.changes:
        place = slice(change.offset, change.offset + 4)
        assert (before[place], file.content[place]) == (SVC, ERROR), change


def test_a_file_with_other_places_is_refused(libc: Path, tmp_path: Path) -> None:
    whole, file = libc.read_bytes(), without_refused_calls(libc)
    path = tmp_path / LIBC
    assert "set_robust_list in 0 places" in refusal(path, file.content)

    def at(offset: int, new: bytes) -> bytes:
        return whole[:offset] + new + whole[offset + len(new) :]

    place = {change.call: change.offset for change in file.changes}
    # One that is made in another way than those that were looked at.
    fewer = refusal(path, at(place["rseq"] - 4, BRANCH))
    assert "calls rseq in 0 places, and" in fewer
    assert "docs/phone-runtime.md" in fewer
    # One more: in place of a call that no engine makes.
    accept = whole.index(bytes.fromhex("481980d2") + SVC)  # mov x8, #202; svc #0
    assert "calls rseq in 2 places (0x" in refusal(path, at(accept, RSEQ))
    # With a branch in between, the number is not that call's.
    path.write_bytes(at(accept, RSEQ + BRANCH + SVC))
    assert without_refused_calls(path).changes == file.changes


def test_what_looks_like_a_call_in_data_is_none(libc: Path, tmp_path: Path) -> None:
    path = tmp_path / LIBC
    path.write_bytes(libc.read_bytes() + RSEQ + SVC)
    assert without_refused_calls(path).changes == without_refused_calls(libc).changes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda whole: whole.replace(b"release version 2.", b"release version 9."), "2.36 and 2."),
        (lambda whole: whole.replace(b"release version 2.", b"release VERSION 2."), "unknown C"),
        (lambda whole: whole.replace(b"\0libc.so.6\0", b"\0libd.so.6\0"), "is libd.so.6 for aa"),
    ],
)
def test_other_files_are_refused(
    change: Callable[[bytes], bytes], told: str, libc: Path, tmp_path: Path
) -> None:
    assert told in refusal(tmp_path / LIBC, change(libc.read_bytes()))
    with pytest.raises(UnsupportedError, match=r"is libm\.so\.6 for aarch64"):
        without_refused_calls(libc.with_name("libm.so.6"))
