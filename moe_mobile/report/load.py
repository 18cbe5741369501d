# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the rows that `moe-mobile bench` wrote: JSON lines, or JSON arrays."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from moe_mobile.base import limits
from moe_mobile.base.files import open_input, read_limited
from moe_mobile.base.json_field import too_many_values
from moe_mobile.bench.row import SCHEMA_VERSION, Row
from moe_mobile.errors import UnsupportedError, UsageError, read_error

MAX_BYTES = 256 << 20
"""Of one file: a page made of more would open in no browser."""

MAX_DEPTH = 32
"""Of one row. Rows nest 6 deep; a thousand would be too deep for what writes them again."""

_STDIN = "standard input"
_REMEDY = "Give the JSON or JSON lines that `moe-mobile bench` wrote"
_FEWER = "Report fewer rows at once, or measure them without every token"
_TOO_DEEP = "unreasonable JSON: nested too deep"
# An object with any of them is a row; the project's other JSON answers have none of them.
_ROW_MEMBERS = ("n_prompt", "n_gen")


@dataclasses.dataclass(frozen=True)
class Results:
    """The rows of all files in their order, and what a reader must know about reading them."""

    rows: list[Row]
    notes: list[str]


def read_results(paths: Sequence[pathlib.Path]) -> Results:
    """The rows of `paths`; `-` is standard input.

    A last row that was cut off is left out with a note: the run may still be going on, or was
    killed. A row that was read before is left out too.

    Raises:
        UsageError: a file that is empty, too large, or anything else than rows.
        UnsupportedError: rows of a newer schema.
        IoError: a file that cannot be read.
    """
    rows: list[Row] = []
    notes: list[str] = []
    seen: set[str] = set()
    for path in paths:
        name = _STDIN if str(path) == "-" else str(path)
        parser = _Parser(name, _read(path, name))
        found = repeated = 0
        for value in parser.values():
            for row in _rows_of(value, name, notes):
                found += 1
                key = json.dumps(row, sort_keys=True)
                if key in seen:
                    repeated += 1
                else:
                    seen.add(key)
                    rows.append(Row(row, name))
        notes += parser.notes
        if repeated:
            notes.append(f"{name}: {_count(repeated, 'row')} left out, read before")
        if not found and parser.cut_off:
            raise UsageError(
                "holds no complete row of results: its first is cut off",
                file=name,
                remedy="Wait until the run has measured a row, or continue it",
            )
        if not found:
            raise UsageError("holds no row of results", file=name, remedy=_REMEDY)
    return Results(rows, notes)


def _read(path: pathlib.Path, name: str) -> str:
    try:
        if name == _STDIN:
            data = read_limited(sys.stdin.buffer, MAX_BYTES, name, _FEWER)
        else:
            with open_input(path) as file:
                data = read_limited(file, MAX_BYTES, name, _FEWER)
    except OSError as error:
        raise read_error(error, name) from error
    if too_many_values(data):
        raise UsageError(f"holds more than {limits.VALUES} values", file=name, remedy=_FEWER)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("is not a text file", file=name, remedy=_REMEDY) from None


class _Parser:
    """JSON values one after the other, in whatever white space."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._lost = 0
        self._decoder = json.JSONDecoder(parse_constant=self._lose, parse_float=self._float)
        self.notes: list[str] = []
        self.cut_off = False

    def values(self) -> Iterator[Any]:
        position = self._skip(0)
        while position < len(self._text):
            start = position
            try:
                value, position = self._decoder.raw_decode(self._text, start)
            except json.JSONDecodeError as error:
                self._require_truncated(error, start)
                if self._text[start] == "[":
                    yield self._whole_items(start)
                break
            except ValueError as error:
                self._refuse(start, f"unreasonable JSON: {error}")
            except RecursionError:
                self._refuse(start, _TOO_DEEP)
            yield self._require_shallow(value, start)
            position = self._skip(position)
        if self._lost:
            what = _count(self._lost, "value")
            self.notes.append(f"{self._name}: {what} not a finite number, read as not recorded")

    def _whole_items(self, start: int) -> list[Any]:
        """The items of an array that ends too early, less the one that is cut."""
        items: list[Any] = []
        position = self._skip(start + 1)
        while position < len(self._text):
            try:
                value, end = self._decoder.raw_decode(self._text, position)
            except ValueError:
                break
            except RecursionError:
                self._refuse(position, _TOO_DEEP)
            items.append(self._require_shallow(value, position))
            position = end
            position = self._skip(position, ",")
        return items

    def _require_truncated(self, error: json.JSONDecodeError, start: int) -> None:
        # A writer that was stopped leaves an error in the last line, and no end of that line.
        if "\n" in self._text[error.pos :] or self._text[start] not in "[{":
            self._refuse(error.pos, f"not JSON: {error.msg}")
        self.cut_off = True
        self.notes.append(
            f"{self._name}: the last row is cut off and left out; the run was interrupted, or "
            "is still going on"
        )

    def _require_shallow(self, value: Any, position: int) -> Any:
        level = [value]
        for _ in range(MAX_DEPTH):
            level = [
                inner
                for outer in level
                if isinstance(outer, dict | list)
                for inner in (outer.values() if isinstance(outer, dict) else outer)
                if isinstance(inner, dict | list)
            ]
            if not level:
                return value
        self._refuse(position, _TOO_DEEP)

    def _refuse(self, position: int, cause: str) -> NoReturn:
        line = self._text.count("\n", 0, position) + 1
        raise UsageError(f"line {line}: {cause}", file=self._name, remedy=_REMEDY)

    def _skip(self, position: int, also: str = "") -> int:
        while position < len(self._text) and self._text[position] in " \t\r\n" + also:
            position += 1
        return position

    def _lose(self, _: str) -> None:
        self._lost += 1

    def _float(self, text: str) -> float | None:
        value = float(text)
        if math.isfinite(value):
            return value
        self._lost += 1
        return None


def _rows_of(value: Any, name: str, notes: list[str]) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            raise UsageError("is JSON, but holds no rows of results", file=name, remedy=_REMEDY)
        if set(item) == {"error"}:
            # `bench --json` ends with it if a later row failed.
            error = item["error"]
            cause = error.get("cause") if isinstance(error, dict) else error
            notes.append(f"{name}: the run ended with an error: {cause}")
            continue
        if not any(member in item for member in _ROW_MEMBERS):
            members = ", ".join(sorted(map(str, item))[:4]) or "nothing"
            raise UsageError(
                f"is JSON, but not a row of results: an object has {members}",
                file=name,
                remedy=_REMEDY,
            )
        _check_version(item.get("schema_version", SCHEMA_VERSION), name)
        yield item


def _check_version(version: Any, name: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UsageError(f"invalid schema version {version!r}", file=name, remedy=_REMEDY)
    if version > SCHEMA_VERSION:
        raise UnsupportedError(
            f"rows of schema version {version}; this moe-mobile reads up to {SCHEMA_VERSION}",
            file=name,
            remedy="Use the moe-mobile that measured them, or a newer one",
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
