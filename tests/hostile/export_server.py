# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A process that imports PyTorch once and then runs ``moe-mobile export`` in forked children.

Reads one JSON request per line: ``arguments`` of the command line, and at most one of

* ``kill_at``: the child kills itself (SIGKILL) right before its n-th change of a file,
* ``fill_at``: [n, path]: right before that change the child fills the disk with a file,
* ``signal_after``: [signal, seconds]: sent to the child that long after its start.

Answers each with ``status`` (the exit code, or minus the signal), ``changes`` (the file changes
the child counted), ``experts`` (how many it wrote), ``output`` (its standard output) and ``log``
(its standard error); a killed child's counts are 0. What a checkpoint needs lowered is lowered
before its first child, which inherits it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from moe_mobile.base.files import HashingFile
from moe_mobile.base.json_field import Json
from moe_mobile.cli import cli
from moe_mobile.export import export_bundle
from moe_mobile.export.shard_file import GrowingShard
from tests.bundles import FEW_ROWS, SHARED
from tests.lowering import remembered_lowering

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class Changes:
    """Counts the changes of files, and kills the process or fills the disk before one of them."""

    def __init__(self, kill_at: int | None, fill_at: tuple[int, str] | None) -> None:
        self.count = 0
        self.experts = 0
        self._kill_at = kill_at
        self._fill_at = fill_at

        def fsync(descriptor: int) -> None:
            # Not done: killing a process loses nothing that was written, and busy disks take long.
            self._changed()

        write, append = HashingFile.write, GrowingShard.append

        def counted_write(file: HashingFile, data: memoryview) -> None:
            self._changed()
            write(file, data)
            # Also a part of a program may be in the file when the process is killed.
            file._file.flush()

        def counted_append(shard: GrowingShard, pieces: Sequence[memoryview]) -> Json:
            self.experts += 1
            return append(shard, pieces)

        setattr(os, "fsync", fsync)  # noqa: B010
        setattr(HashingFile, "write", counted_write)  # noqa: B010
        setattr(GrowingShard, "append", counted_append)  # noqa: B010
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event not in _CHANGES:
            return
        self._changed()

    def _changed(self) -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fill_at is not None and self.count == self._fill_at[0]:
            path, self._fill_at = self._fill_at[1], None
            with suppress(OSError), open(path, "wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4096))


def child(request: dict[str, Any], output: int, log: int, counter: int) -> int:
    os.dup2(output, 1)
    os.dup2(log, 2)
    changes = Changes(request.get("kill_at"), request.get("fill_at"))
    code = 1
    try:
        cli.main(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(counter, f"{changes.count} {changes.experts}".encode())
    return code


def warm_up(source: str) -> None:
    """Imports all that an export imports on use, and lowers its programs."""
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(source, Path(folder) / "bundle", "8da4w", max_batch=FEW_ROWS)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryFile() as counter,
    ):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(request, output.fileno(), log.fileno(), counter.fileno())
            finally:
                os._exit(code)
        started = time.perf_counter()
        if "signal_after" in request:
            number, seconds = request["signal_after"]
            # The child stays a zombie until it is waited for: its number is not reused.
            timer = threading.Timer(seconds, os.kill, (pid, number))
            timer.start()
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            timer.cancel()
            timer.join()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seconds = time.perf_counter() - started
        texts = []
        for file in (output, log, counter):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    changes, experts = (texts[2] or "0 0").split()
    return {
        "status": status,
        "seconds": seconds,
        "output": texts[0],
        "log": texts[1],
        "changes": int(changes),
        "experts": int(experts),
    }


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warm: set[str] = set()
    with remembered_lowering(Path(os.environ[SHARED], "lowered")):
        for line in sys.stdin:
            request = json.loads(line)
            source = request["arguments"][1]
            if source not in warm:
                warm_up(source)
                warm.add(source)
            print(json.dumps(serve(request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
