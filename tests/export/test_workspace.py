# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Interrupted, repeated and competing exports, without the programs: files and journal only."""

from __future__ import annotations

import builtins
import dataclasses
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_mobile.bundle.unfinished import JOURNAL, made_for, require_finished
from moe_mobile.errors import DiskFullError, ReadOnlyError, UsageError
from moe_mobile.export.inputs import Inputs
from moe_mobile.export.workspace import Record, Workspace, open_workspace, refuse_other
from tests.export.made_of import made_of
from tests.files import contents, endless, pipe, sparse

INPUTS = made_of()
FILES = {"embedding.bin": b"e" * 10, "dense/a.pte": b"d" * 20, "experts/a.shard": b"x" * 30}


def export(
    out: Path, inputs: Inputs = INPUTS, *, overwrite: bool = False, mark: bytes = b""
) -> list[str]:
    """A small export; returns the files that it wrote itself."""
    written = []
    with open_workspace(out, inputs, overwrite=overwrite) as space:
        if space is None:
            return []
        for path, content in FILES.items():
            if space.finished(path) is None:
                space.write(path, writer(content + mark))
                written.append(path)
        space.complete(out, b"{}" + mark)
    return written


def writer(content: bytes) -> Callable[[Any], Record | None]:
    def fill(file: Any) -> Record:
        file.write(content)
        return {"programs": [1, 2]}

    return fill


WHOLE = {**FILES, "bundle.json": b"{}"}


class Killed(BaseException):
    """Nothing in the code under test catches it, as nothing runs after SIGKILL."""


class Killer:
    """Raises at the n-th change of the file system from now on; nothing changes after that."""

    STEPS = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")

    def __init__(self, patch: pytest.MonkeyPatch, step: int) -> None:
        self.left = step
        for name in self.STEPS:
            patch.setattr(os, name, self._wrap(getattr(os, name)))
        patch.setattr(builtins, "open", self._wrap_open(builtins.open))

    def _tick(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Killed

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self._tick()
            return function(*arguments, **named)

        return wrapped

    def _wrap_open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if any(letter in mode for letter in "wax+"):
                self._tick()
            return function(path, mode, *arguments, **named)

        return wrapped


def killed_at(step: int, run: Callable[[], object]) -> bool:
    """Runs; True if it was killed, False if it came to its end first."""
    with pytest.MonkeyPatch.context() as patch:
        Killer(patch, step)
        try:
            run()
        except Killed:
            return True
    return False


def finish(out: Path, *, overwrite: bool = False) -> None:
    """Runs the same export again; killed in its last step it may say that it is done."""
    try:
        export(out, overwrite=overwrite)
    except UsageError as error:
        if "already exists" not in str(error):
            raise


def test_killed_at_every_step(tmp_path: Path) -> None:
    steps = 0
    for step in range(1, 200):
        out = tmp_path / str(step) / "out"
        out.parent.mkdir()
        if not killed_at(step, lambda out=out: export(out)):  # type: ignore[misc]
            break
        steps += 1
        assert not out.exists() or contents(out) == WHOLE
        finish(out)
        assert contents(out) == WHOLE
        assert [entry.name for entry in out.parent.iterdir()] == ["out"]
    assert steps > 20


def test_killed_at_every_step_of_replacing_an_older_bundle(tmp_path: Path) -> None:
    older = {**{path: content + b"old" for path, content in FILES.items()}, "bundle.json": b"{}old"}
    steps = 0
    for step in range(1, 200):
        out = tmp_path / str(step) / "out"
        export(out, made_of("older"), mark=b"old")
        if not killed_at(step, lambda out=out: export(out, overwrite=True)):  # type: ignore[misc]
            break
        steps += 1
        kept = out if out.exists() else out.with_name("out.partial") / "replaced"
        assert contents(kept) in (older, WHOLE)
        finish(out, overwrite=True)
        assert contents(out) == WHOLE
        assert [entry.name for entry in out.parent.iterdir()] == ["out"]
    assert steps > 20


def test_a_resumed_run_writes_only_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        record = space.write("dense/a.pte", writer(FILES["dense/a.pte"]))
    assert record["programs"] == [1, 2]
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        assert space.finished("dense/a.pte") == record
    assert export(out) == ["embedding.bin", "experts/a.shard"]
    assert contents(out) == WHOLE


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (made_of("other"), r"of another checkpoint, or of one that has changed since \(a model\)"),
        (
            made_of(experts="fp32", variants=("8da4w",)),
            r"with other options \(experts 8da4w instead of fp32, variants none instead of 8da4w\)",
        ),
        (
            dataclasses.replace(INPUTS, versions={"torch": "2.0"}),
            r"by other versions \(torch 1\.0 instead of 2\.0\)",
        ),
    ],
)
def test_other_inputs_delete_what_was_made_only_on_demand(
    other: Inputs, said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        space.write("dense/stale.pte", writer(b"stale"))
    kept = contents(tmp_path / "out.partial")
    for refuse in (
        lambda: refuse_other(out, other, overwrite=False),
        lambda: export(out, other),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            refuse()
        assert "interrupted here: 1 file is complete and 0 experts are made, 5 B in" in str(
            caught.value
        )
        assert "`overwrite`" in (caught.value.remedy or "")
        assert contents(tmp_path / "out.partial") == kept
    refuse_other(out, other, overwrite=True)
    assert export(out, other, overwrite=True) == list(FILES)
    assert contents(out) == WHOLE


def test_what_is_not_known_yet_is_not_compared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    refuse_other(out, INPUTS, overwrite=False)
    assert not list(tmp_path.iterdir())
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        space.write("dense/a.pte", writer(b"a"))
    refuse_other(out, made_of(None), overwrite=False)
    with pytest.raises(UsageError, match="other options"):
        refuse_other(out, made_of(None, experts="fp32"), overwrite=False)


def test_other_inputs_begin_at_once_where_nothing_was_finished(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False):
        (tmp_path / "out.partial" / "bundle" / "embedding.bin.tmp").write_bytes(b"half")
    assert export(out, made_of("other")) == list(FILES)


@pytest.mark.parametrize("line", [None, b'{"key": "of an older version"}', b"\xff"])
def test_what_no_journal_vouches_for_is_deleted_only_on_demand(
    line: bytes | None, tmp_path: Path
) -> None:
    out, journal = tmp_path / "out", tmp_path / "out.partial" / JOURNAL
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        space.write("dense/a.pte", writer(b"a"))
    if line is None:
        journal.unlink()
    else:
        journal.write_bytes(line + b"\n" + journal.read_bytes().partition(b"\n")[2])
    with pytest.raises(UsageError, match="another version, or with a damaged journal"):
        export(out)
    assert export(out, overwrite=True) == list(FILES)


def test_another_name_continues_and_comes_into_the_manifest(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        space.write("dense/a.pte", writer(FILES["dense/a.pte"]))
    renamed = dataclasses.replace(INPUTS, source="a copy", name="copy")
    assert "dense/a.pte" not in export(out, renamed)


def with_source(source: str) -> Callable[[Any], Record | None]:
    def fill(file: Any) -> Record:
        file.write(b"x")
        return {"source": source}

    return fill


def test_what_older_weights_made_is_in_doubt(tmp_path: Path) -> None:
    """Until files of the weights are those of that time again."""
    out = tmp_path / "out"

    def run(written: str, *paths: str) -> dict[str, list[object]]:
        with open_workspace(out, made_of(written=written), overwrite=False) as space:
            assert space is not None
            for path in paths:
                space.write(path, with_source(path))
            return space.in_doubt()

    assert run("monday", "a", "b") == {}
    assert run("monday") == {}
    assert run("tuesday", "c") == {"a": ["a"], "b": ["b"]}
    assert run("tuesday") == {"a": ["a"], "b": ["b"]}
    assert run("monday") == {"c": ["c"]}
    assert run("wednesday") == {"a": ["a"], "b": ["b"], "c": ["c"]}


@pytest.mark.parametrize(
    "damage",
    [b'{"path": "dense/a.pte", "by', b"\xff\xfe\n", b"null\n", b"[]\n", b'{"path": 3}\n'],
)
def test_a_damaged_journal_only_repeats_work(damage: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        space.write("dense/a.pte", writer(FILES["dense/a.pte"]))
    with open(tmp_path / "out.partial" / JOURNAL, "ab") as journal:
        journal.write(damage)
    assert killed_at(8, lambda: export(out))
    export(out)
    assert contents(out) == WHOLE


def test_lines_after_a_cut_line_of_the_journal_are_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False):
        pass
    with open(tmp_path / "out.partial" / JOURNAL, "ab") as journal:
        journal.write(b'{"path": "dense/x.pte", "by')
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        record = space.write("dense/a.pte", writer(FILES["dense/a.pte"]))
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        assert space.finished("dense/a.pte") == record


def test_a_file_that_shrank_is_written_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert space is not None
        space.write("dense/a.pte", writer(FILES["dense/a.pte"]))
    (tmp_path / "out.partial" / "bundle" / "dense" / "a.pte").write_bytes(b"short")
    assert "dense/a.pte" in export(out)
    assert contents(out) == WHOLE


def test_two_exports_at_once_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False):
        with pytest.raises(UsageError, match="another export is writing"):
            export(out)
        assert (tmp_path / "out.partial" / JOURNAL).exists()
    export(out)


def test_a_lock_taken_on_a_folder_that_is_gone_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    lock = fcntl.flock

    def finish_first(descriptor: int, flags: int) -> None:
        monkeypatch.undo()
        export(out)  # the other process, between our open and our lock
        lock(descriptor, flags)

    (tmp_path / "out.partial").mkdir()
    monkeypatch.setattr(fcntl, "flock", finish_first)
    with pytest.raises(UsageError, match="just been written"):
        export(out)
    assert contents(out) == WHOLE


def test_targets_that_are_not_overwritten(tmp_path: Path) -> None:
    bundle, other, file = tmp_path / "bundle", tmp_path / "other", tmp_path / "file"
    export(bundle)
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    file.write_text("mine")
    (tmp_path / "link").symlink_to(bundle)
    for target, overwrite, cause in (
        (bundle, False, "already exists"),
        (other, True, "holds files that do not belong"),
        (file, True, "is not a folder"),
        (tmp_path / "link", True, "is not a folder"),
    ):
        with pytest.raises(UsageError, match=cause):
            export(target, overwrite=overwrite)
    assert (other / "thesis.tex").read_text() == "mine"
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_in_the_way_of_the_partial_one_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="not an unfinished export"):
        export(tmp_path / "out")
    assert (tmp_path / "out.partial" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(28, DiskFullError), (122, DiskFullError), (30, ReadOnlyError), (13, ReadOnlyError)],
)
def test_errors_of_the_system_are_typed(
    number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, fail = os.fsync, [False]

    def fsync(descriptor: int) -> None:
        if fail[0]:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    out = tmp_path / "out"
    with open_workspace(out, INPUTS, overwrite=False) as space:
        assert isinstance(space, Workspace)
        fail[0] = True
        with pytest.raises(kind, match=r"dense/a\.pte"):
            space.write("dense/a.pte", writer(b"x"))
    assert not (tmp_path / "out.partial" / "bundle" / "dense" / "a.pte.tmp").exists()
    fail[0] = False
    assert export(out) == list(FILES)


@pytest.mark.parametrize("make", [pipe, endless, sparse])
def test_what_cannot_be_a_journal_is_left_alone(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    (partial / "bundle").mkdir(parents=True)
    (partial / "bundle" / "thesis.tex").write_text("mine")
    make(partial / JOURNAL)
    assert made_for(out) is None
    require_finished(out)
    require_finished(partial)
    with pytest.raises(UsageError, match="not an unfinished export") as caught:
        export(out)
    assert caught.value.remedy
    assert os.path.lexists(partial / JOURNAL)
    assert (partial / "bundle" / "thesis.tex").read_text() == "mine"
