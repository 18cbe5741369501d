# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the tests of hostile input share: the export server, a careful runner, bundles and disks."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from moe_mobile.errors import MoeMobileError
from moe_mobile.runner import Runner
from tests.bundles import FEW_ROWS
from tests.tiny import VOCAB

ROOT = Path(__file__).resolve().parents[2]
EXPORT_OPTIONS = ["--quant", "8da4w", "--max-batch", str(FEW_ROWS), "--json"]
TOKENS = random.Random(3).choices(range(3, VOCAB), k=48)
"""Enough of them to use every expert of the tiny model."""


class ExportServer:
    """Runs ``moe-mobile export`` in forked children; see export_server.py."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("export_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def run(self, source: Path, out: Path, **request: Any) -> dict[str, Any]:
        """The answer to one export with the tests' options."""
        request["arguments"] = ["export", str(source), str(out), *EXPORT_OPTIONS]
        stdin, stdout = self._pipes()
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    def finish(self, source: Path, out: Path) -> dict[str, Any]:
        """The answer to an export that must succeed."""
        answer = self.run(source, out)
        assert answer["status"] == 0, answer
        return answer

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def close(self) -> None:
        for pipe in self._pipes():
            pipe.close()
        self._process.wait(timeout=1200)


@dataclass(frozen=True)
class Outcome:
    """What the engine did with a bundle: a result, or a typed error."""

    result: Any = None
    error: MoeMobileError | None = None

    def __str__(self) -> str:
        if self.error is None:
            return f"a result: {str(self.result)[:200]}"
        return f"{self.error.code} of {self.error.file}: {self.error.cause}"


class CarefulRunner:
    """A ``moe_runner`` that fails the test if the process dies or a sanitizer reports anything.

    One process serves many tests, until one of them meets an error while a bundle is open: what
    follows must not depend on what an earlier test left.
    """

    def __init__(self, binary: Path, environment: dict[str, str]) -> None:
        self.binary = binary
        self.environment = environment
        self._runner: Runner | None = None

    def run(self, command: str, **members: Any) -> Outcome:
        if self._runner is None:
            self._runner = Runner(self.binary, environment=self.environment)
        runner = self._runner
        try:
            return Outcome(result=runner.request(command, **members))
        except MoeMobileError as error:
            alive = runner._process.poll() is None
            if not alive or "Sanitizer" in runner.log_tail or "runtime error" in runner.log_tail:
                self._runner = None
                pytest.fail(f"{command} ended the engine: {error}\n{runner.log_tail}", False)
            return Outcome(error=error)

    def score(self, bundle: Path, tokens: list[int] = TOKENS, **settings: Any) -> Outcome:
        """Opens the bundle and scores the tokens; the result is the bare log-probabilities."""
        settings = {"threads": 1, "context": 128, **settings}
        opened = self.run("open", bundle=str(bundle), settings=settings)
        if opened.error is not None:
            return opened
        scored = self.run("score", token_ids=tokens)
        return scored if scored.error else Outcome(result=scored.result["log_probabilities"])

    def close(self) -> None:
        """Ends the process, which is when leaks are looked for."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            runner.close()
            assert "Sanitizer" not in runner.log_tail, runner.log_tail


def packed_folder(bundle: Path) -> Path:
    """Where the packed store lies in a prepared bundle."""
    (folder,) = (bundle / ".packed").iterdir()
    return folder


def copy_bundle(bundle: Path, to: Path) -> Path:
    return Path(shutil.copytree(bundle, to, symlinks=True))


@contextmanager
def mounted(where: Path, *options: str) -> Iterator[Path]:
    """A tmpfs for the time of the context; skips the test if mounting is not permitted."""
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "moe-mobile-test", str(where)]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if result.returncode != 0:
        pytest.skip(f"mounting a tmpfs is not permitted here: {result.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def remount(where: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), str(where)], check=True)
