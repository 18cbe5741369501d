# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files from which bench can be continued: JSON lines, each on disk before the next one."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.resources
import json
import pathlib
import threading

from jsonschema import Draft202012Validator

from moe_mobile.base.json_field import Json, parse_object
from moe_mobile.base.json_lines import JsonLines, refuse_content
from moe_mobile.base.json_text import json_text
from moe_mobile.base.terminal import all_without_controls
from moe_mobile.bench.row import SCHEMA_VERSION, Row
from moe_mobile.errors import RuntimeFailedError, UsageError

# How lines begin that are written here.
_ROW = b'{"build_commit":'
_TURN = b'{"run_key":"'


class ResultFile:
    """Rows with their per-token entries; may be written to from several threads.

    ``rows``: by their key. ``turns``: repetitions of interleaved rows that are not complete.
    """

    def __init__(self, path: pathlib.Path, *, resume: bool) -> None:
        """Open a new file, or with ``resume`` one that may hold rows.

        Raises UsageError for a file with rows if ``resume`` is not set, and for one that holds
        something else; IoError if it cannot be read or written.
        """
        self.path = path
        self.rows: dict[str, Row] = {}
        turns = path.with_name(path.name + ".turns")
        if not resume:
            for one in (path, turns):
                refuse_content(one)
        with contextlib.ExitStack() as opened:
            # First, so that no file is made if this is refused.
            self.turns = TurnFile(turns)
            opened.callback(self.turns.close, complete=set())
            self._lines = JsonLines(path, _ROW)
            opened.callback(self._lines.close)
            for number, line in enumerate(self._lines.found, 1):
                if line.strip():
                    self._read(line, number)
            if self._lines.ends_foreign:
                raise self._foreign(len(self._lines.found) + 1)
            opened.pop_all()

    def append(self, result: Row) -> None:
        """Write a row through to the disk. Raises DiskFullError or IoError, and RuntimeFailedError
        for a row that could not be read again; its turns are dropped then, to be measured again."""
        row = result.as_dict(tokens=True)
        wrong = _wrong(parse_object(json.dumps(row).encode(), finite=True))
        if wrong is not None:
            self.turns.drop(result.run_key)
            raise RuntimeFailedError(
                f"the measured row does not fit its schema: {wrong}",
                file=self.path,
                remedy="It is not kept; "
                + (
                    "run `moe-mobile doctor`"
                    if row["device"]["kind"] == "local"
                    else "check that the phone works normally, then measure it again"
                ),
            )
        self._lines.append(row)
        self.rows[result.run_key] = result

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self.turns.close(complete=set(self.rows))

    def _read(self, line: bytes, number: int) -> None:
        row = parse_object(line, finite=True)
        if row is None or "n_prompt" not in row:
            raise self._foreign(number)
        # Rows of other versions stay in the file, and are not taken for this one's.
        if row.get("schema_version") != SCHEMA_VERSION:
            return
        if _wrong(row) is not None:
            raise self._foreign(number)
        try:
            shown = all_without_controls(row)
        except RecursionError:
            raise self._foreign(number) from None
        self.rows[row["run_key"]] = Row(shown)

    def _foreign(self, line: int) -> UsageError:
        return UsageError(
            f"line {line} is not a row of results",
            file=self.path,
            remedy="Only rows that `bench` wrote can be continued: name another file",
        )


class TurnFile:
    """Repetitions of interleaved rows, whose last comes only at the end of a grid."""

    def __init__(self, path: pathlib.Path) -> None:
        """The content of an earlier run at ``path``. Raises UsageError for other files, IoError."""
        self._path = path
        self._lines: JsonLines | None = None
        self._lock = threading.Lock()
        self._found: dict[tuple[str, int], Json] = {}
        self._dropped = False
        if not path.exists():
            return
        with contextlib.ExitStack() as opened:
            self._lines = JsonLines(path, _TURN)
            opened.callback(self._lines.close)
            for line in self._lines.found:
                self._read(line)
            if self._lines.ends_foreign:
                raise self._foreign()
            opened.pop_all()

    def get(self, run_key: str, number: int) -> Json | None:
        """A repetition that was measured already."""
        return self._found.get((run_key, number))

    def keep(self, run_key: str, number: int, repetition: Json) -> None:
        """Write a repetition through to the disk. Raises DiskFullError or IoError."""
        self._append(run_key, number, repetition)
        self._found[run_key, number] = repetition

    def drop(self, run_key: str) -> None:
        """Forget the repetitions of a row. Raises DiskFullError or IoError."""
        for key, number in list(self._found):  # other threads may add to it
            if key == run_key:
                self._append(key, number, None)
                del self._found[key, number]
                self._dropped = True

    def close(self, complete: set[str]) -> None:
        """Close the file, and delete it once all rows that it has a part of are complete."""
        if self._lines is not None:
            self._lines.close()
            if (self._found or self._dropped) and {key for key, _ in self._found} <= complete:
                with contextlib.suppress(OSError):
                    self._path.unlink()

    def _append(self, run_key: str, number: int, repetition: Json | None) -> None:
        """Write a line; one without a repetition takes back the one before."""
        with self._lock:
            if self._lines is None:
                self._lines = JsonLines(self._path, _TURN)
        turn = {"run_key": run_key, "number": number, "repetition": repetition}
        self._lines.append(turn | {"check": _check(turn)})

    def _read(self, line: bytes) -> None:
        turn = parse_object(line)
        if turn is None or "repetition" not in turn:
            raise self._foreign()
        found = turn.pop("check", None)
        try:
            is_ours = found == _check(turn)
        except RecursionError:  # the limit is a little lower than when it was read
            raise self._foreign() from None
        # Damaged rows, and rows of other versions, are measured again.
        if is_ours:
            place = turn["run_key"], turn["number"]
            if turn["repetition"] is None:
                self._found.pop(place, None)
            else:
                self._found[place] = turn["repetition"]

    def _foreign(self) -> UsageError:
        return UsageError(
            "holds something else than repetitions of an interleaved grid",
            file=self._path,
            remedy="bench keeps them next to its file of rows: move this one away",
        )


@functools.cache
def _validator() -> Draft202012Validator:
    schema = importlib.resources.files("moe_mobile.bench") / "results.schema.json"
    return Draft202012Validator(json.loads(schema.read_text("utf-8")))


def _wrong(row: Json | None) -> str | None:
    """What is wrong with a row of this version that has every token; None if nothing is wrong."""
    if row is None:
        return "it has a number that is not finite"
    if "tokens" not in row:
        return "'tokens' is a required property"
    error = next(_validator().iter_errors(row), None)
    return None if error is None else f"{error.json_path}: {error.message[:200]}"


def _check(turn: Json) -> str:
    """Whether a turn is as this version writes it."""
    text = json_text([SCHEMA_VERSION, turn], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
