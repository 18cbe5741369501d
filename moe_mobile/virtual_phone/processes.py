# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Starting and ending processes in a phone, from outside it."""

from __future__ import annotations

import array
import os
import signal
import socket
import threading
from collections.abc import Sequence

from moe_mobile.base.json_text import json_text
from moe_mobile.virtual_phone.init import MAX_REQUEST, REPORT

_NO_EXIT_CODE = 255


class Process:
    """A started process."""

    def __init__(self, processes: Processes, report: int) -> None:
        self._processes = processes
        self.report = report
        """Can be read once the process has ended."""
        self.pid = self._read()[0]

    def exit_code(self) -> int:
        """Wait for its end; 128 and the signal if one ended it, 255 if the phone died."""
        return self._read()[1]

    def close(self) -> None:
        """Care no more how it ends."""
        os.close(self.report)

    def hang_up(self) -> None:
        """Tell it that its client left, as adbd does: SIGHUP to it alone, not to its children."""
        self._processes.signal(self.pid, signal.SIGHUP, own=True)

    def _read(self) -> tuple[int, int]:
        data = os.read(self.report, REPORT.size)
        return REPORT.unpack(data) if len(data) == REPORT.size else (0, _NO_EXIT_CODE)


class Processes:
    """What process 1 of the phone is asked for; see :mod:`moe_mobile.virtual_phone.init`."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._asking = threading.Lock()

    def start(
        self,
        argv: Sequence[str],
        environment: dict[str, str],
        streams: Sequence[int],
        *,
        terminal: bool,
    ) -> Process:
        """Start a program of the phone with these three standard streams.

        Raises:
            OSError: the command line is too long.
        """
        request = {"argv": list(argv), "environment": environment, "terminal": terminal}
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            self._ask(request, (*streams, write_end))
        except OSError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return Process(self, read_end)

    def signal(self, pid: int, number: int, *, own: bool = False) -> None:
        """Send a signal to a process id of the phone; `own`: only if `start` started it."""
        if pid > 1:
            self._ask({"kill": pid, "signal": int(number), "own": own}, ())

    def _ask(self, request: object, fds: Sequence[int]) -> None:
        data = json_text(request).encode()
        if len(data) > MAX_REQUEST:
            raise OSError(7, "Argument list too long")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with self._asking:
            self._requests.sendmsg([data], rights)
