# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Questions to adb's server, with a limit for the whole answer.

A question is four hexadecimal digits, the length, and a text. The answer is ``OKAY``, or ``FAIL``
and a text in the same form (AOSP, packages/modules/adb, SERVICES.TXT).
"""

from __future__ import annotations

import socket as sockets
import time


class ServerError(Exception):
    """adb's server refused; its words."""


class Question:
    """A connection to adb's server. Methods raise TimeoutError once ``seconds`` are over (see
    :meth:`within`), OSError if the server is gone, and ValueError for what no adb server
    answers."""

    def __init__(self, socket: sockets.socket, seconds: float) -> None:
        self.socket = socket
        self.within(seconds)

    def within(self, seconds: float) -> None:
        """All that follows must be over in that time."""
        self._deadline = time.monotonic() + seconds

    def ask(self, text: str) -> None:
        """Raises ServerError unless the server agrees."""
        data = text.encode()
        self._set_time()
        self.socket.sendall(b"%04x" % len(data) + data)
        status = self._read(4)
        if status == b"FAIL":
            raise ServerError(self.text())
        if status != b"OKAY":
            raise ValueError(f"not a status: {status!r}")

    def text(self) -> str:
        """A text of at most 64 KiB."""
        return self._read(int(self._read(4), 16)).decode()

    def close(self) -> None:
        """Leave the server."""
        self.socket.close()

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._set_time()
            part = self.socket.recv(count - len(data))
            if not part:
                raise ServerError("it closed the connection")
            data += part
        return bytes(data)

    def _set_time(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self.socket.settimeout(left)
