# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores kept in a file of JSON lines, from which a later command continues.

The file may be damaged or edited: a line is checked as it is read, and again against what it is
taken for.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

import moe_mobile
from moe_mobile.base.json_field import Json, parse_object
from moe_mobile.base.json_lines import JsonLines, refuse_content
from moe_mobile.errors import UsageError
from moe_mobile.quality.score import (
    BLOCK,
    Cache,
    Quality,
    ScoredModel,
    empty_row,
    open_run,
)

__all__ = ["QualityFile", "score_key"]

VERSION = 1
"""Grows if a member of a line changes its meaning or goes."""

_MODEL = ("source", "source_id", "precision", "context")
# The score has the numbers of layers and experts.
_TEXTS = ("key", "model", "source", "source_id", "precision")
_SHOWN = ("routing", "requested", "note", "eviction", "pool")
_COUNTS = ("tokens", "predictions", "hits", "misses", "dropped", "changed")
_SIZES = ("context", "capacity", "layers", "experts", "top_k")
_FIELDS = {field.name for field in dataclasses.fields(Quality)}
_MOST = 1 << 53
_LARGEST = 1e45  # of a block: more than float32 logits can make of it
_ROUNDING = 1e-3  # by which a block may be below zero


def score_key(model: ScoredModel, sequences: Sequence[Sequence[int]], cache: Cache) -> str:
    """Identifies a score among all: a hash of what decides it."""
    tokens = hashlib.sha256()
    for sequence in sequences:
        tokens.update(np.array([len(sequence), *sequence], "<u4").tobytes())
    members = {
        "model": dataclasses.asdict(model),
        "tokens": tokens.hexdigest(),
        "cache": dataclasses.asdict(cache),
        "version": moe_mobile.__version__,
        "build": _build(),
    }
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _build() -> str:
    """Identifies a build: a hash of the compiled code, which routes and counts."""
    from moe_mobile import _native

    with open(_native.__file__, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class QualityFile:
    """Scores by their key."""

    def __init__(self, path: pathlib.Path, *, resume: bool) -> None:
        """Open a new file, or with ``resume`` one that may hold scores.

        Raises UsageError for a file with content if ``resume`` is not set, and for one that
        holds something else; IoError if it cannot be read or written.
        """
        self._path = path
        self.scores: dict[str, Quality] = {}
        self._origins: dict[str, tuple[int, Json]] = {}
        if not resume:
            refuse_content(path)
        self._lines = JsonLines(path)
        for number, line in enumerate(self._lines.found, 1):
            if line.strip():
                self._read(line, number)
        if self._lines.ends_foreign:
            raise self._foreign(len(self._lines.found) + 1)

    def append(self, key: str, model: ScoredModel, score: Quality) -> None:
        """Write a score through to the disk. Raises DiskFullError or IoError."""
        line = {"quality_version": VERSION, "key": key, **_named(model)}
        self._lines.append(line | score.as_dict())
        self.scores[key] = score
        self._origins.pop(key, None)

    def take(
        self, key: str, model: ScoredModel, sequences: Sequence[Sequence[int]], cache: Cache
    ) -> Quality | None:
        """The score with this key; None if there is none. Raises UsageError if it does not agree
        with its key (:func:`score_key`): somebody changed it."""
        score = self.scores.get(key)
        if score is None or key not in self._origins:
            return score
        number, row = self._origins[key]
        expected = dataclasses.asdict(empty_row(model, cache, open_run(model, cache)))
        wanted = {name: expected[name] for name in (*_SHOWN, *_SIZES) if name in expected}
        wanted |= _named(model) | {"tokens": sum(map(len, sequences))}
        for name, value in wanted.items():
            if row[name] != value:
                raise self._foreign(number, f"its {name!r} is not {value!r}, as its key says")
        return score

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()

    def _read(self, line: bytes, number: int) -> None:
        row = parse_object(line, finite=True)
        if row is None or "quality_version" not in row:
            raise self._foreign(number)
        # Scores of other versions stay in the file, and are not used.
        if row["quality_version"] != VERSION:
            return
        try:
            self.scores[row.get("key", "")] = _checked(row)
        except _BrokenError as error:
            raise self._foreign(number, str(error)) from None
        self._origins[row["key"]] = number, row

    def _foreign(self, line: int, why: str = "") -> UsageError:
        return UsageError(
            f"line {line} is not a score" + (f": {why}" if why else ""),
            file=self._path,
            remedy="Name another file, or delete that line: what is missing is scored again",
        )


class _BrokenError(Exception):
    """Says what is wrong with a line."""


def _named(model: ScoredModel) -> Json:
    return {"model": model.name, **{name: getattr(model, name) for name in _MODEL}}


def _checked(row: Json) -> Quality:
    """The score of a line. Raises _BrokenError if a member is wrong, or members disagree."""
    _check_members(row)
    _check_counts(row)
    for name in ("routing", "requested"):
        _check_routing(name, row[name])
    score = Quality.from_dict(row)
    if not score.lossy and (score.changed or score.dropped):
        _refuse(f"its routing is {score.routing!r}, and 'changed' or 'dropped' is not 0")
    for name, value in score.as_dict().items():
        if name not in _FIELDS and (name not in row or not _same(row[name], value)):
            _refuse(f"its {name!r} does not agree with the rest")
    return score


def _check_members(row: Json) -> None:
    for name in (*_TEXTS, *_SHOWN):
        if not isinstance(row.get(name), str):
            _refuse(f"its {name!r} is not a text")
        if name in _SHOWN and not row[name].isprintable():
            _refuse(f"its {name!r} is not printable")
    if row["pool"] not in ("layer", "global"):
        _refuse("its 'pool' is neither layer nor global")
    for name in (*_COUNTS, *_SIZES):
        value = row.get(name)
        if type(value) is not int or not (name in _SIZES) <= value <= _MOST:
            _refuse(f"its {name!r} is not a valid number")
    blocks = row.get("blocks")
    if not isinstance(blocks, list) or not all(
        type(block) in (int, float) and -_ROUNDING <= block <= _LARGEST for block in blocks
    ):
        _refuse("its 'blocks' are not a list of log-likelihoods")


def _check_counts(row: Json) -> None:
    if not row["top_k"] <= row["capacity"] <= row["experts"]:
        _refuse("its 'capacity' is not in top_k to experts")
    # All sequences but the last are as long as the context.
    whole, rest = divmod(row["tokens"], row["context"])
    lengths = [(whole, row["context"]), (1, rest)] if rest else [(whole, row["context"])]
    if any(length < 2 for count, length in lengths if count) or not row["tokens"]:
        _refuse("its 'tokens' make no sequences of the context")
    if row["predictions"] != sum(count * (length - 1) for count, length in lengths):
        _refuse("its 'predictions' are not those of its tokens")
    if len(row["blocks"]) != sum(count * -(-(length - 1) // BLOCK) for count, length in lengths):
        _refuse("its 'blocks' are not as many as its predictions make")
    slots = row["tokens"] * row["layers"] * row["top_k"]
    # Relu routers may use fewer.
    if row["hits"] + row["misses"] > slots:
        _refuse("its 'hits' and 'misses' are more than its slots")
    if row["dropped"] > row["misses"]:
        _refuse("its 'dropped' are more than its misses")
    if row["changed"] > slots:
        _refuse("its 'changed' are more than its slots")


def _check_routing(name: str, routing: str) -> None:
    from moe_mobile import _native

    try:
        _native.check_settings(json.dumps({"routing": routing}))
    except UsageError as error:
        _refuse(f"its {name!r} is not a routing: {error.cause}")


def _same(found: object, value: object) -> bool:
    """Whether a derived member is what it is derived to; another machine may round otherwise."""
    if not isinstance(value, float):
        return type(found) is type(value) and found == value
    if not isinstance(found, int | float) or isinstance(found, bool):
        return False
    return abs(found) <= sys.float_info.max and math.isclose(
        found, value, rel_tol=1e-9, abs_tol=1e-12
    )


def _refuse(why: str) -> NoReturn:
    raise _BrokenError(why)
