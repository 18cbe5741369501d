# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A file of results: JSON lines, each on disk before the next row is measured, to be continued."""

from __future__ import annotations

import json
import os
import pathlib
import threading
from typing import Any

from moe_mobile.bench.results import SCHEMA_VERSION, BenchResult
from moe_mobile.errors import UsageError, read_error, write_error

__all__ = ["ResultFile"]


class ResultFile:
    """Rows with their per-token entries; may be written to from several threads."""

    def __init__(self, path: pathlib.Path, *, resume: bool) -> None:
        """Open a new file, or with ``resume`` one that may hold rows.

        Raises UsageError for a file with rows where ``resume`` is not set, and for one that holds
        something else; IoError where it cannot be read or written.
        """
        self.path = path
        self.rows: dict[str, BenchResult] = {}
        self._lock = threading.Lock()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise read_error(error, path) from error
        if data and not resume:
            raise UsageError(
                "holds results already",
                file=path,
                remedy="Add --resume to continue them, or name another file",
            )
        # A writer that was killed leaves a line without an end: that row is measured again.
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            if line.strip():
                self._read(line, number)
        try:
            self._file = open(path, "r+b" if data else "wb")  # noqa: SIM115
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
        except OSError as error:
            raise write_error(error, path) from error

    def append(self, result: BenchResult) -> None:
        """Write a row through to the disk. Raises DiskFullError or IoError."""
        line = json.dumps(result.as_dict(tokens=True), separators=(",", ":")) + "\n"
        with self._lock:
            try:
                self._file.write(line.encode())
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise write_error(error, self.path) from error
            self.rows[result.run_key] = result

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _read(self, line: bytes, number: int) -> None:
        row: Any
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "n_prompt" not in row:
            raise UsageError(
                f"line {number} is no row of results",
                file=self.path,
                remedy="--resume continues what `moe-mobile bench --out FILE` wrote",
            )
        # Rows of other versions stay in the file, and are not taken for this one's.
        if row.get("schema_version") == SCHEMA_VERSION and "run_key" in row:
            try:
                self.rows[row["run_key"]] = BenchResult.from_dict(row)
            except KeyError:
                return
