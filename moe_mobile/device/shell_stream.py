# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""adb's shell protocol, version 2: a command's standard streams and exit code over one socket.

Frames are a byte that names the stream, the length as a little-endian 32-bit number, and data
(AOSP, packages/modules/adb/shell_protocol.h).
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

__all__ = ["ShellStream"]

_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_HEADER = struct.Struct("<BI")

MAX_FRAME = (1 << 20) - _HEADER.size
"""A frame fills one packet between adb's server and the device, which carries 1 MiB."""


class ShellStream:
    """A command that runs on a device.

    ``connection`` is a socket to adb's server over which the service `shell,v2,raw:` answered. All
    methods raise ConnectionError where the device or the server is lost, TimeoutError as the
    socket is set.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.exit_code: int | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send to the command's standard input; at most MAX_FRAME bytes go out at once."""
        view = memoryview(data)
        for start in range(0, len(view), MAX_FRAME):
            part = view[start : start + MAX_FRAME]
            self._send(_HEADER.pack(_STDIN, len(part)), part)

    def close_stdin(self) -> None:
        """End the command's standard input."""
        self._send(_HEADER.pack(_CLOSE_STDIN, 0), memoryview(b""))

    def wait(self) -> int:
        """Read what the command writes until it ends; its exit code, 128 + n for signal n."""
        while self.exit_code is None:
            kind, length = _HEADER.unpack(self._receive(_HEADER.size))
            data = self._receive(length)
            if kind == _STDOUT:
                self.stdout += data
            elif kind == _STDERR:
                self.stderr += data
            elif kind == _EXIT and data:
                self.exit_code = data[0]
        return self.exit_code

    def close(self) -> None:
        """Leave the command; a device ends it then."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, header: bytes, data: memoryview) -> None:
        sent = self._socket.sendmsg([header, data])
        if sent < len(header):
            self._socket.sendall(header[sent:])
            sent = len(header)
        if sent < len(header) + len(data):
            self._socket.sendall(data[sent - len(header) :])

    def _receive(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self._socket.recv(min(length - len(parts), 1 << 20))
            if not part:
                raise ConnectionResetError("the device is gone")
            parts += part
        return bytes(parts)
