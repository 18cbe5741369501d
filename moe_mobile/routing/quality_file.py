# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores kept in a file of JSON lines, from which a later command continues."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import moe_mobile
from moe_mobile.bench.build import build
from moe_mobile.bench.lines import JsonLines, parse_object, refuse_content
from moe_mobile.errors import UsageError
from moe_mobile.routing.quality import Cache, Quality, ScoredModel

__all__ = ["QualityFile", "score_key"]

VERSION = 1
"""Grows where a member of a line changes its meaning or goes."""


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
        "build": build()[0],
    }
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class QualityFile:
    """Scores by their key."""

    def __init__(self, path: pathlib.Path, *, resume: bool) -> None:
        """Open a new file, or with ``resume`` one that may hold scores.

        Raises UsageError for a file with content where ``resume`` is not set, and for one that
        holds something else; IoError where it cannot be read or written.
        """
        self._path = path
        self.scores: dict[str, Quality] = {}
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
        facts = dataclasses.asdict(model)
        # The score has the numbers of layers and experts.
        named = {name: facts[name] for name in ("source", "source_id", "precision", "context")}
        line = {"quality_version": VERSION, "key": key, "model": model.name, **named}
        self._lines.append(line | score.as_dict())
        self.scores[key] = score

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()

    def _read(self, line: bytes, number: int) -> None:
        row: dict[str, Any] | None = parse_object(line)
        if row is None or "quality_version" not in row:
            raise self._foreign(number)
        # Those of other versions stay in the file, and are not taken for this one's.
        if row["quality_version"] != VERSION:
            return
        try:
            self.scores[str(row["key"])] = Quality.from_dict(row)
        except (KeyError, TypeError, ValueError):
            raise self._foreign(number) from None

    def _foreign(self, line: int) -> UsageError:
        return UsageError(
            f"line {line} is no score",
            file=self._path,
            remedy="--resume continues what `moe-mobile quality --out FILE` wrote",
        )
