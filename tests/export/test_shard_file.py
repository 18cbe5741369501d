# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A shard that is continued: what of it is trusted, and what is made again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moe_mobile.base.json_field import Json
from moe_mobile.bundle.manifest import ALIGNMENT
from moe_mobile.bundle.unfinished import JOURNAL
from moe_mobile.export import workspace
from moe_mobile.export.shard_file import GrowingShard
from moe_mobile.export.workspace import Workspace, open_workspace
from tests.export.made_of import made_of

PATH = "experts/layer-00.shard"
# Shorter than the alignment, longer, just as long, and empty but for a byte.
EXPERTS = [bytes([i + 1]) * length for i, length in enumerate((10, 40000, ALIGNMENT, 1, 20000))]


class Stopped(Exception):
    pass


def whole() -> bytes:
    return b"".join(program + bytes(-len(program) % ALIGNMENT) for program in EXPERTS)


def write(space: Workspace, stop: int = len(EXPERTS)) -> tuple[Json, list[int]]:
    """Writes the shard, up to expert ``stop``. The record, and which experts were asked for."""
    made: list[int] = []

    def programs(first: int) -> Generator[tuple[list[memoryview], int], None, None]:
        for expert in range(first, len(EXPERTS)):
            if expert == stop:
                raise Stopped
            made.append(expert)
            middle = len(EXPERTS[expert]) // 2
            pieces = [memoryview(EXPERTS[expert][:middle]), memoryview(EXPERTS[expert][middle:])]
            yield pieces, expert

    return space.write_shard(PATH, programs), made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def stopped(out: Path) -> Callable[[int], Path]:
    """Leaves a shard with so many experts; its temporary file."""

    def stop(count: int) -> Path:
        with opened(out) as space, pytest.raises(Stopped):
            write(space, count)
        return out.with_name("out.partial") / "bundle" / (PATH + ".tmp")

    return stop


@contextmanager
def opened(out: Path) -> Iterator[Workspace]:
    with open_workspace(out, made_of(), overwrite=False) as space:
        assert space is not None
        yield space


def continued(out: Path) -> list[int]:
    """Which experts the next run makes. The shard that it ends with is the right one."""
    with opened(out) as space:
        record, made = write(space)
        data = (out.with_name("out.partial") / "bundle" / PATH).read_bytes()
        assert data == whole()
        assert (record["bytes"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        programs = record["programs"]
        assert [data[p["offset"] : p["offset"] + p["bytes"]] for p in programs] == EXPERTS
        assert [p["source"] for p in programs] == list(range(len(EXPERTS)))
        assert [p["sha256"] for p in programs] == [hashlib.sha256(e).hexdigest() for e in EXPERTS]
        assert space.finished(PATH) == record
    with opened(out) as space:
        assert space.finished(PATH) == record
    return made


@pytest.mark.parametrize("count", range(len(EXPERTS) + 1))
def test_a_later_run_makes_the_other_experts(
    count: int, out: Path, stopped: Callable[[int], Path]
) -> None:
    if count < len(EXPERTS):
        stopped(count)
        with opened(out) as space:
            assert space.unfinished(PATH) == count
            assert space.finished(PATH) is None
        assert continued(out) == list(range(count, len(EXPERTS)))
    else:
        with opened(out) as space:
            assert write(space)[1] == list(range(count))


def test_bytes_behind_the_last_recorded_expert_are_cut_off(
    out: Path, stopped: Callable[[int], Path]
) -> None:
    with stopped(3).open("ab") as file:
        file.write(b"half of an expert" * 10000)
    assert continued(out) == [3, 4]


@pytest.mark.parametrize(
    ("at", "first"),
    [(0, 0), (9, 0), (10, 1), (ALIGNMENT - 1, 1), (ALIGNMENT, 1), (ALIGNMENT + 39999, 1)],
)
def test_damaged_experts_are_made_again(
    at: int, first: int, out: Path, stopped: Callable[[int], Path]
) -> None:
    """Bytes of programs and of the zeros between them."""
    file = stopped(4)
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    assert continued(out) == list(range(first, len(EXPERTS)))


@pytest.mark.parametrize(("length", "first"), [(0, 0), (5, 0), (10, 1), (ALIGNMENT + 100, 1)])
def test_a_shard_that_is_shorter_than_the_journal_says(
    length: int, first: int, out: Path, stopped: Callable[[int], Path]
) -> None:
    """As a power cut may leave it."""
    file = stopped(4)
    file.write_bytes(file.read_bytes()[:length])
    assert continued(out) == list(range(first, len(EXPERTS)))


@pytest.mark.parametrize("link", [Path.hardlink_to, Path.symlink_to])
def test_a_file_that_has_another_name_is_not_written_into(
    link: Callable[[Path, Path], None], out: Path, stopped: Callable[[int], Path]
) -> None:
    file = stopped(4)
    other = file.rename(out.with_name("other"))
    before = other.read_bytes()
    link(file, other)
    assert continued(out) == list(range(len(EXPERTS)))
    assert other.read_bytes() == before


def test_a_shard_that_is_gone(out: Path, stopped: Callable[[int], Path]) -> None:
    stopped(4).unlink()
    assert continued(out) == list(range(len(EXPERTS)))


def test_experts_that_were_made_again_replace_those_that_were_damaged(
    out: Path, stopped: Callable[[int], Path]
) -> None:
    file = stopped(4)
    data = bytearray(file.read_bytes())
    data[ALIGNMENT] ^= 1
    file.write_bytes(data)
    stopped(3)  # makes 1 and 2 again
    with opened(out) as space:
        assert space.unfinished(PATH) == 3
    assert continued(out) == [3, 4]


@pytest.mark.parametrize(
    "line",
    [
        b'{"unfinished": 3}',
        b'{"unfinished": "experts/layer-00.shard"}',
        b'{"unfinished": [], "offset": 0, "bytes": 1, "sha256": ""}',
        b'{"unfinished": "experts/layer-00.shard", "offset": "0", "bytes": 1, "sha256": ""}',
        b'{"unfinished": "experts/layer-00.shard", "offset": 0, "bytes": "x", "sha256": ""}',
        b'{"unfinished": "experts/layer-00.shard", "offset": -1, "bytes": 5, "sha256": 1}',
        b'{"unfinished": "experts/layer-00.shard", "offset": 0.5, "bytes": 1e400, "sha256": 1}',
        b'{"unfinished": "experts/layer-00.shard", "offset": 0.0, "bytes": 10.0, "sha256": 1}',
        b'{"unfinished": "experts/layer-00.shard", "offset": 90000, "bytes": -5, "sha256": 1}',
    ],
    ids=range(9),
)
def test_a_damaged_line_only_repeats_work(
    line: bytes, out: Path, stopped: Callable[[int], Path]
) -> None:
    stopped(3)
    with open(out.with_name("out.partial") / JOURNAL, "ab") as journal:
        journal.write(line + b"\n")
    assert continued(out)[-1] == len(EXPERTS) - 1


def test_experts_of_other_inputs_are_not_continued(
    out: Path, stopped: Callable[[int], Path]
) -> None:
    stopped(3)
    with open_workspace(out, made_of("other"), overwrite=True) as space:
        assert space is not None
        assert space.unfinished(PATH) == 0
        assert write(space)[1] == list(range(len(EXPERTS)))


def test_a_shard_is_synced_as_it_grows(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut would take the whole layer, and the end would wait for all of it."""
    at: list[int] = []
    sync = GrowingShard.sync

    def counted(shard: GrowingShard) -> None:
        at.append(len(shard.programs))
        sync(shard)

    monkeypatch.setattr(GrowingShard, "sync", counted)
    monkeypatch.setattr(workspace, "_SYNC_BYTES", 50000)
    monkeypatch.setattr(workspace, "_SYNC_SECONDS", 1e9)
    with opened(out) as space:
        write(space)
    assert at == [2, 5]
