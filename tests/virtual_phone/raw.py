# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A client that sends exactly the given bytes, for what the real one would never send."""

from __future__ import annotations

import socket
import struct

from moe_mobile.virtual_phone import VirtualPhone
from moe_mobile.virtual_phone.wire import CLSE, CNXN, HEADER, OKAY, OPEN, WRTE

VERSION = 0x01000001


def packet(command: int, first: int, second: int, payload: bytes = b"") -> bytes:
    """A well-formed packet."""
    header = HEADER.pack(command, first, second, len(payload), 0, command ^ 0xFFFFFFFF)
    return header + payload


class RawClient:
    """One connection to a phone, without adb's server in between."""

    def __init__(self, phone: VirtualPhone, *, greet: bool = True) -> None:
        host, port = phone.serial.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=1200)
        self._ids = iter(range(1, 1 << 30))
        if greet:
            self.send(packet(CNXN, VERSION, 1 << 20, b"host::features=shell_v2"))
            assert self.receive()[0] == CNXN

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def receive(self) -> tuple[int, int, int, bytes]:
        """The next packet: command, arguments, payload. ConnectionError if no packet comes."""
        command, first, second, length, _, magic = HEADER.unpack(self._exactly(HEADER.size))
        assert magic == command ^ 0xFFFFFFFF
        return command, first, second, self._exactly(length)

    def closed(self) -> bool:
        """Whether the phone closes the connection, whatever else it still says."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def open(self, service: bytes) -> tuple[int, int] | None:
        """Open a stream: our id and the phone's, None if it is refused."""
        ours = next(self._ids)
        self.send(packet(OPEN, ours, 0, service + b"\0"))
        while True:
            command, first, second, _ = self.receive()
            if second == ours:
                return (ours, first) if command == OKAY else None

    def ask(self, stream: tuple[int, int], data: bytes, quiet: float = 300) -> bytes:
        """Send data to a stream and return what it answers until it is closed, or quiet for so many
        seconds."""
        self.send(packet(WRTE, *stream, data))
        answer = b""
        self.socket.settimeout(quiet)
        try:
            while True:
                command, _, second, payload = self.receive()
                if second != stream[0]:
                    continue
                if command == WRTE:
                    answer += payload
                    self.send(packet(OKAY, *stream))
                elif command == CLSE:
                    return answer
        except TimeoutError:
            return answer
        finally:
            self.socket.settimeout(1200)

    def sync(self, *requests: tuple[bytes, bytes]) -> bytes:
        """Answers of the file service to requests of (four letters, payload)."""
        stream = self.open(b"sync:")
        assert stream is not None
        data = b"".join(struct.pack("<4sI", kind, len(text)) + text for kind, text in requests)
        return self.ask(stream, data + struct.pack("<4sI", b"QUIT", 0))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return data
