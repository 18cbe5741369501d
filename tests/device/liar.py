# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A phone that lies: a proxy before adb's server that changes what scripts are told and tell.

It follows adb's protocol for clients: requests with four hexadecimal digits of length, and after
``shell,v2`` frames of a byte, a little-endian 32-bit length and data.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

_HEADER = struct.Struct("<BI")
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)

Tell = Callable[[int, bytes], None]
"""Tells the client a frame. Raises OSError once it has left."""


class Lie:
    """What happens to the streams of scripts that contain ``about``; by itself the truth.

    ``stop`` is set when the test ends.
    """

    def __init__(self, about: str) -> None:
        self.about = about
        self.told = 0
        self.stop = threading.Event()

    def began(self, tell: Tell) -> None:
        """A script began. Runs in a thread of its own."""

    def heard(self, kind: int, data: bytes) -> bool:
        """The client sends a frame: whether the phone gets it. OSError breaks the connection."""
        return True

    def says(self, kind: int, data: bytes, tell: Tell) -> None:
        """The phone sends a frame."""
        tell(kind, data)

    def ended(self) -> None:
        """The phone's end of it is gone; the client's goes once this returns."""


class _Stream:
    """One connection of a client."""

    def __init__(self, client: socket.socket, server: socket.socket, lies: list[Lie]) -> None:
        self._client, self._server, self._lies = client, server, lies
        self._lie: Lie | None = None
        self._telling = threading.Lock()
        self._open = threading.Event()

    def serve(self) -> None:
        answers = threading.Thread(target=self._guarded, args=(self._answers,), daemon=True)
        answers.start()
        self._guarded(self._requests)

    def _guarded(self, part: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, ValueError):
            part()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _requests(self) -> None:
        while self._lie is None:
            length = _exactly(self._client, 4)
            request = _exactly(self._client, int(length, 16))
            if request.startswith(b"shell,v2"):
                self._choose(request)
            self._server.sendall(length + request)
        while True:
            kind, data = _frame(self._client)
            if not self._lie.about:  # some scripts come over standard input
                self._choose(data)
            if self._lie.heard(kind, data):
                self._server.sendall(_HEADER.pack(kind, len(data)) + data)

    def _choose(self, script: bytes) -> None:
        truth = Lie("")
        self._lie = next((lie for lie in self._lies if lie.about.encode() in script), truth)
        if self._lie is not truth:
            threading.Thread(target=self._begin, args=(self._lie,), daemon=True).start()

    def _begin(self, lie: Lie) -> None:
        self._open.wait()
        with contextlib.suppress(OSError):
            lie.began(self._tell)

    def _answers(self) -> None:
        while True:
            data = self._server.recv(1 << 16 if self._lie is None else 4)
            if not data:
                return
            if self._lie is not None:  # what the script was answered
                self._client.sendall(data + _exactly(self._server, 4 - len(data)))
                break
            self._client.sendall(data)
        self._open.set()
        try:
            while True:
                kind, data = _frame(self._server)
                self._lie.says(kind, data, self._tell)
        except ConnectionResetError:
            self._lie.ended()

    def _tell(self, kind: int, data: bytes) -> None:
        with self._telling:
            self._client.sendall(_HEADER.pack(kind, len(data)) + data)
        if self._lie is not None:
            self._lie.told += len(data)


@contextlib.contextmanager
def liar(port: int, *lies: Lie) -> Iterator[int]:
    """The port of a server that lies for the one on ``port``."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection(("127.0.0.1", port))
                    stream = _Stream(client, server, list(lies))
                    threading.Thread(target=stream.serve, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            for lie in lies:
                lie.stop.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


class Silent(Lie):
    """Says nothing more after the first line with ``after`` in it, not even that it ended."""

    def __init__(self, about: str, after: bytes = b"") -> None:
        super().__init__(about)
        self._after, self._over = after, not after

    def says(self, kind: int, data: bytes, tell: Tell) -> None:
        if self._over:
            return
        found = data.find(self._after)
        self._over = found >= 0
        tell(kind, data[: data.find(b"\n", found) + 1] if self._over else data)

    def ended(self) -> None:
        self.stop.wait()


class Deaf(Lie):
    """Takes what is sent and keeps none of it. ``breaks``: and breaks the connection then."""

    def __init__(self, about: str, *, breaks: bool = False) -> None:
        super().__init__(about)
        self._breaks = breaks

    def heard(self, kind: int, data: bytes) -> bool:
        if self._breaks and kind == STDIN and data:
            raise ConnectionResetError
        return kind != STDIN


class Stuck(Lie):
    """Takes nothing that is sent."""

    def heard(self, kind: int, data: bytes) -> bool:
        self.stop.wait()
        return False


class Endless(Silent):
    """Prints ``data`` again and again, every ``pause`` seconds, in place of what comes after
    ``after``."""

    def __init__(
        self, about: str, kind: int, data: bytes, *, pause: float = 0, after: bytes = b""
    ) -> None:
        super().__init__(about, after)
        self._kind, self._data, self._pause = kind, data, pause
        self._begin = threading.Event()
        if not after:
            self._begin.set()

    def says(self, kind: int, data: bytes, tell: Tell) -> None:
        super().says(kind, data, tell)
        if self._over:
            self._begin.set()

    def began(self, tell: Tell) -> None:
        self._begin.wait()
        while not self.stop.is_set():
            tell(self._kind, self._data)
            if self._pause:
                time.sleep(self._pause)


class Instead(Lie):
    """Prints ``data`` in place of what the script prints."""

    def __init__(self, about: str, data: bytes) -> None:
        super().__init__(about)
        self._data = data

    def says(self, kind: int, data: bytes, tell: Tell) -> None:
        if kind == EXIT:
            tell(STDOUT, self._data)
        if kind != STDOUT:
            tell(kind, data)


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def _frame(source: socket.socket) -> tuple[int, bytes]:
    kind, length = _HEADER.unpack(_exactly(source, _HEADER.size))
    return kind, _exactly(source, length)
