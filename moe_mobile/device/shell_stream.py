# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""adb's shell protocol, version 2: a command's standard streams and exit code over one socket.

Frames are a byte that names the stream, the length as a little-endian 32-bit number, and data
(AOSP, packages/modules/adb/shell_protocol.h).
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from typing import Self

from moe_mobile.base import limits

_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_HEADER = struct.Struct("<BI")
_MOST_AT_ONCE = 1 << 16
_END_OF_STDIN = _HEADER.pack(_CLOSE_STDIN, 0)

MAX_FRAME = (1 << 20) - _HEADER.size
"""A frame fills one packet between adb's server and the device, which carries 1 MiB."""


class ShellStream:
    """A command that runs on a device.

    ``connection`` is a socket to adb's server over which the service `shell,v2,raw:` answered.
    ``seconds``: see :meth:`within`. ``most``: bytes that the command may print. All methods raise
    ConnectionError if the device or the server is lost, TimeoutError once the time is over, and
    ConnectionAbortedError if the command prints more than that.
    """

    def __init__(self, connection: socket.socket, seconds: float, most: int | None = None) -> None:
        self._socket = connection
        self._most = limits.OUTPUT_BYTES if most is None else most
        self._received = bytearray()  # the beginning of a frame
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.exit_code: int | None = None
        self.within(seconds)

    def within(self, seconds: float) -> None:
        """All that follows must be over in that time, however busy the connection is."""
        self._deadline = time.monotonic() + seconds

    def write(self, data: bytes | bytearray | memoryview, *, last: bool = False) -> bool:
        """Send to the command's standard input, at most MAX_FRAME bytes in a frame, and with
        ``last`` end it, in the same packet if there is room.

        Returns False once the command has ended and takes no more: :meth:`wait` says how.
        """
        view = memoryview(data)
        for start in range(0, len(view), MAX_FRAME):
            part = view[start : start + MAX_FRAME]
            frames = [memoryview(_HEADER.pack(_STDIN, len(part))), part]
            if last and start + MAX_FRAME >= len(view):
                frames.append(memoryview(_END_OF_STDIN))
            if not self._send(frames):
                return False
        if last and not view:
            self.close_stdin()
        return True

    def close_stdin(self) -> None:
        """End the command's standard input."""
        self._send([memoryview(_END_OF_STDIN)])

    def read_line(self) -> str:
        """The first line of what the command writes, without its end; "" if it ends before."""
        while b"\n" not in self.stdout and self.exit_code is None:
            self._read()
        return self.stdout.partition(b"\n")[0].decode(errors="replace")

    def wait(self) -> int:
        """Read what the command writes until it ends; its exit code, 128 + n for signal n."""
        while self.exit_code is None:
            self._read()
        return self.exit_code

    def has_ended(self) -> bool:
        """Whether the command has ended, as far as the device has said; False if it is lost.

        Takes in what the command has printed, without waiting for more.
        """
        self._take_frames()  # one that printed too much before still has
        with contextlib.suppress(OSError, ValueError):  # lost, or closed meanwhile
            if self.exit_code is None and self._ready(select.POLLIN, 0):
                self._receive()
        self._take_frames()
        return self.exit_code is not None

    def close(self) -> None:
        """Leave the command; a device ends it then."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, parts: list[memoryview]) -> bool:
        """Watches for the command's end meanwhile: writing on after it would lose its last words,
        because the reset that answers throws away what was not read yet."""
        while parts and self.exit_code is None:
            ready = self._ready(select.POLLIN | select.POLLOUT, self._left())
            if ready & ~select.POLLOUT:
                self._read()
            if ready != select.POLLOUT:
                continue
            count = self._socket.sendmsg(parts, [], socket.MSG_DONTWAIT)
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if count:
                parts[0] = parts[0][count:]
        return self.exit_code is None

    def _read(self) -> None:
        """Wait for something, and take it in."""
        self._take_frames()  # see has_ended
        self._socket.settimeout(self._left())
        self._receive()
        self._take_frames()

    def _receive(self) -> None:
        part = self._socket.recv(_MOST_AT_ONCE)
        if not part:
            raise ConnectionResetError("the device is gone")
        self._received += part

    def _take_frames(self) -> None:
        """Of what was received, those that are whole."""
        while self.exit_code is None and len(self._received) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._received)
            if len(self.stdout) + len(self.stderr) + length > self._most:
                raise ConnectionAbortedError("the command does not stop printing")
            end = _HEADER.size + length
            if len(self._received) < end:
                return
            data = self._received[_HEADER.size : end]
            del self._received[:end]
            if kind == _STDOUT:
                self.stdout += data
            elif kind == _STDERR:
                self.stderr += data
            elif kind == _EXIT and data:
                self.exit_code = data[0]

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the command takes too long")
        return left

    def _ready(self, events: int, seconds: float) -> int:
        poll = select.poll()
        poll.register(self._socket, events)
        return next((event for _, event in poll.poll(1000 * seconds)), 0)
