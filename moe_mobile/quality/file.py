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
import math
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

import moe_mobile
from moe_mobile.base.files import sha256_of
from moe_mobile.base.json_field import MAX_INTEGER, Json, JsonField, parse_strict_json
from moe_mobile.base.json_lines import JsonLines, refuse_content
from moe_mobile.base.json_text import json_text
from moe_mobile.base.routings import is_lossy
from moe_mobile.errors import BundleInvalidError, UsageError
from moe_mobile.quality.score import (
    BLOCK,
    Cache,
    Quality,
    ScoredModel,
    empty_row,
    open_run,
)

VERSION = 2
"""Grows if a member of a line changes its meaning or goes."""

_MODEL = ("source", "source_id", "precision", "context")
_SHOWN = ("routing", "requested", "note", "eviction", "pool", "expert_precision")
_COUNTS = ("tokens", "predictions", "hits", "misses", "dropped", "changed")
_SIZES = ("context", "capacity", "layers", "experts", "top_k")
_FIELDS = {field.name for field in dataclasses.fields(Quality)}
_MEMBERS = ("quality_version", "key", "model", *_MODEL, *sorted(_FIELDS))
_MAX_TEXT = 4096
_MOST_BYTES = 1 << 80
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
    text = json_text(members, sort_keys=True, compact=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _build() -> str:
    """Identifies a build: a hash of the compiled code, which routes and counts."""
    from moe_mobile import _native

    return sha256_of(_native.__file__)


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
            raise self._foreign(len(self._lines.found) + 1, "it does not begin as one")

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
        file = str(self._path)
        try:
            root = JsonField(parse_strict_json(line, file), "", file)
            root.expect_object()
            # Scores of other versions stay in the file, and are not used.
            if root.has("quality_version") and root["quality_version"].value != VERSION:
                return
            score = _checked(root)
        except (BundleInvalidError, UsageError) as error:
            raise self._foreign(number, error.cause) from None
        self.scores[root.value["key"]] = score
        self._origins[root.value["key"]] = number, root.value

    def _foreign(self, line: int, why: str) -> UsageError:
        return UsageError(
            f"line {line} is not a score: {why}",
            file=self._path,
            remedy="Name another file, or delete that line: what is missing is scored again",
        )


def _named(model: ScoredModel) -> Json:
    return {"model": model.name, **{name: getattr(model, name) for name in _MODEL}}


def _checked(root: JsonField) -> Quality:
    """The score of a line. Raises BundleInvalidError if a member is wrong, or members disagree, and
    UsageError for settings that no engine takes."""
    from moe_mobile import _native

    root.expect_members(_MEMBERS, root.value)
    _check_members(root)
    _check_counts(root)
    row = root.value
    for name in ("routing", "requested"):
        settings = {"routing": row[name], "precision": row["expert_precision"]}
        _native.check_settings(json_text(settings))
    score = Quality.from_dict(row)
    if not is_lossy(score.routing) and (score.changed or score.dropped):
        root["routing"].fail(f"is {score.routing!r}, and 'changed' or 'dropped' is not 0")
    for name, value in score.as_dict().items():
        if name not in _FIELDS and not (root.has(name) and _same(row[name], value)):
            root.fail(f"has a member {name!r} that does not agree with the rest")
    return score


def _check_members(root: JsonField) -> None:
    root["key"].text(_MAX_TEXT)
    for name in _SHOWN:
        if root[name].value != "" or name != "note":
            root[name].text(_MAX_TEXT)
    root["pool"].one_of(("layer", "global"))
    for name in _COUNTS:
        root[name].integer(0, MAX_INTEGER)
    for name in _SIZES:
        root[name].integer(1, MAX_INTEGER)
    root["bytes_read"].integer(0, _MOST_BYTES)
    for block in root["blocks"].items():
        if type(block.value) not in (int, float) or not -_ROUNDING <= block.value <= _LARGEST:
            block.fail("is not a log-likelihood")


def _check_counts(root: JsonField) -> None:
    row = root.value
    if not row["top_k"] <= row["capacity"] <= row["experts"]:
        root["capacity"].fail("is not in top_k to experts")
    # All sequences but the last are as long as the context.
    whole, rest = divmod(row["tokens"], row["context"])
    lengths = [(whole, row["context"]), (1, rest)] if rest else [(whole, row["context"])]
    if any(length < 2 for count, length in lengths if count) or not row["tokens"]:
        root["tokens"].fail("make no sequences of the context")
    if row["predictions"] != sum(count * (length - 1) for count, length in lengths):
        root["predictions"].fail("are not those of the tokens")
    if len(row["blocks"]) != sum(count * -(-(length - 1) // BLOCK) for count, length in lengths):
        root["blocks"].fail("are not as many as the predictions make")
    slots = row["tokens"] * row["layers"] * row["top_k"]
    # Relu routers may use fewer.
    for name, count, most in (
        ("misses", row["hits"] + row["misses"], slots),
        ("dropped", row["dropped"], row["misses"]),
        ("changed", row["changed"], slots),
    ):
        if count > most:
            root[name].fail("are more than there can be")


def _same(found: object, value: object) -> bool:
    """Whether a derived member is what it is derived to; another machine may round otherwise."""
    if not isinstance(value, float):
        return type(found) is type(value) and found == value
    if not isinstance(found, int | float) or isinstance(found, bool):
        return False
    return abs(found) <= sys.float_info.max and math.isclose(
        found, value, rel_tol=1e-9, abs_tol=1e-12
    )
