# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Pipes to and from a process that may fall silent: each wait has an end, each line a length.

Python's own pipes have neither. Another thread may close a pipe at any time: the thread that waits
sees ValueError, as with Python's.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import IO

# Another thread that closes the pipe waits for so long at most.
_SLICE_S = 0.5
_CHUNK = 1 << 16


class LineTooLongError(ValueError):
    """A line is longer than it may be; ``begin`` is how it begins."""

    def __init__(self, begin: bytes) -> None:
        super().__init__("a line is too long")
        self.begin = begin


class _Pipe:
    """A descriptor of its own for a pipe, which is closed."""

    _event = 0

    def __init__(self, pipe: IO[bytes]) -> None:
        self._fd = os.dup(pipe.fileno())
        pipe.close()
        os.set_blocking(self._fd, False)
        # Held while the number is used: once closed, it may be that of another file.
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give it up; may be called again."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    @property
    def closed(self) -> bool:
        """Whether it was given up."""
        return self._fd < 0

    def _ready(self, end: float | None) -> int:
        """The descriptor once it can be used, or -1 for a while; call it with the lock held.

        Raises ValueError if it is closed, TimeoutError at ``end`` (of time.monotonic()).
        """
        if self._fd < 0:
            raise ValueError("the pipe is closed")
        left = _SLICE_S if end is None else end - time.monotonic()
        poll = select.poll()
        poll.register(self._fd, self._event)
        if poll.poll(1000 * max(0.0, min(_SLICE_S, left))):
            return self._fd
        if left <= 0:
            raise TimeoutError
        return -1


class LineReader(_Pipe):
    """Lines from a process. One thread at a time reads."""

    _event = select.POLLIN

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(pipe)
        self._data = bytearray()
        self._seen = 0

    def read(self, most: int, seconds: float | None = None) -> bytes:
        """The next line with its end, or what there is before the end of the pipe.

        Raises TimeoutError if there is none within that time: the part that came is kept.
        Raises LineTooLongError for a line of more than ``most`` bytes, ValueError if it is closed.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            found = self._data.find(b"\n", self._seen)
            length = len(self._data) if found < 0 else found + 1
            if length > most:
                raise LineTooLongError(bytes(self._data[:200]))
            if found >= 0:
                return self._take(length)
            self._seen = len(self._data)
            with self._lock:
                fd = self._ready(end)
                try:
                    data = os.read(fd, _CHUNK) if fd >= 0 else None
                except BlockingIOError:
                    data = None
            if data is None:
                continue
            if not data:
                return self._take(length)
            self._data += data

    def _take(self, length: int) -> bytes:
        line = bytes(self._data[:length])
        del self._data[:length]
        self._seen = 0
        return line


class Writer(_Pipe):
    """Bytes to a process. One thread at a time writes."""

    _event = select.POLLOUT

    def write(self, data: bytes, seconds: float | None = None) -> None:
        """Raises TimeoutError if it does not take all of it in time, ValueError if it is closed,
        OSError."""
        end = None if seconds is None else time.monotonic() + seconds
        view = memoryview(data)
        while view:
            with self._lock:
                fd = self._ready(end)
                if fd >= 0:
                    try:
                        view = view[os.write(fd, view[:_CHUNK]) :]
                    except BlockingIOError:
                        continue
