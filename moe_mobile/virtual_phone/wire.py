# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Packets of adb's protocol, and the bytes of them that pass.

A packet is a header of six little-endian 32-bit words (command, two arguments, length of the
payload, sum of the payload's bytes, complement of the command) and the payload. Source: AOSP's
packages/modules/adb, protocol.txt.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
import threading

from moe_mobile.virtual_phone.link import Link

CNXN = int.from_bytes(b"CNXN", "little")
AUTH = int.from_bytes(b"AUTH", "little")
OPEN = int.from_bytes(b"OPEN", "little")
OKAY = int.from_bytes(b"OKAY", "little")
CLSE = int.from_bytes(b"CLSE", "little")
WRTE = int.from_bytes(b"WRTE", "little")

HEADER = struct.Struct("<6I")
MAX_PAYLOAD = 1 << 20
VERSION_WITHOUT_CHECKSUMS = 0x01000001
_POOLED_BUFFERS = 24


class ConnectionClosed(Exception):
    """The peer left, or we cut it off."""


class ProtocolError(Exception):
    """The peer broke the protocol; the connection cannot go on."""


class Traffic:
    """Bytes on the wire since the phone was started, in both directions, where to cut it, and how
    fast they may pass (``link``; None: as fast as they can).

    The counts live in a file of two 64-bit numbers (received, sent), so that they outlast reboots
    and can be read from outside.
    """

    def __init__(self, counters_fd: int, link: Link | None = None) -> None:
        self._link = link
        self._map = mmap.mmap(counters_fd, 16)
        self._lock = threading.Lock()
        # Bytes that may still pass before the cut, and what to arm again after it.
        self._left: list[int | None] = [None, None]
        self._again: list[int | None] = [None, None]

    def cut_after(self, direction: int, count: int, *, again: bool) -> None:
        """Cut once `count` further bytes passed; 0 stops that. Direction: 0 received, 1 sent."""
        with self._lock:
            self._left[direction] = count or None
            self._again[direction] = (count or None) if again else None

    def allowance(self, direction: int) -> int | None:
        """Bytes that may pass at once, before a cut too; None for any number.

        Raises:
            ConnectionClosed: the cut is due.
        """
        piece = None if self._link is None else self._link.piece
        left = self._left[direction]
        if left == 0:
            with self._lock:
                self._left[direction] = self._again[direction]
            raise ConnectionClosed
        return left if piece is None or (left is not None and left < piece) else piece

    def wait(self, direction: int, count: int) -> None:
        """Wait for as long as the link needs for so many bytes."""
        if self._link is not None:
            self._link.carry(direction, count)

    def passed(self, direction: int, count: int) -> None:
        """Count bytes that passed."""
        with self._lock:
            (total,) = struct.unpack_from("<Q", self._map, 8 * direction)
            struct.pack_into("<Q", self._map, 8 * direction, total + count)
            left = self._left[direction]
            if left is not None:
                self._left[direction] = max(0, left - count)


class Wire:
    """Reads and writes packets on one socket. One thread reads; any may write."""

    def __init__(self, peer: socket.socket, traffic: Traffic) -> None:
        self._socket = peer
        self._traffic = traffic
        self._sending = threading.Lock()
        self._header = bytearray(HEADER.size)
        self._pool: list[bytearray] = []
        # Of what we send. What comes is not summed up, as in adbd: adb itself leaves it out when it
        # greets a phone that it knows already.
        self.checksums = True

    def receive(self) -> tuple[int, int, int, memoryview]:
        """The next packet's command, arguments and payload; give the payload to `recycle` later.

        Raises:
            ConnectionClosed: no more will come.
            ProtocolError: what came is not a packet.
        """
        self._fill(memoryview(self._header))
        command, first, second, length, _, magic = HEADER.unpack(self._header)
        if magic != command ^ 0xFFFFFFFF:
            raise ProtocolError("bad magic")
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"payload of {length} bytes")
        if length == 0:
            return command, first, second, memoryview(b"")
        try:
            buffer = self._pool.pop()
        except IndexError:
            buffer = bytearray(MAX_PAYLOAD)
        payload = memoryview(buffer)[:length]
        self._fill(payload)
        return command, first, second, payload

    def recycle(self, payload: memoryview) -> None:
        """Use a payload's memory again; nobody may look at it any more."""
        buffer = payload.obj
        if isinstance(buffer, bytearray) and len(self._pool) < _POOLED_BUFFERS:
            self._pool.append(buffer)

    def send(self, command: int, first: int, second: int, *parts: bytes | memoryview) -> None:
        """Send a packet whose payload is `parts` one after the other.

        Raises:
            ConnectionClosed: the peer is gone.
        """
        length = sum(map(len, parts))
        checksum = sum(map(sum, parts)) & 0xFFFFFFFF if self.checksums else 0
        header = HEADER.pack(command, first, second, length, checksum, command ^ 0xFFFFFFFF)
        with self._sending:
            self._send_all([memoryview(part) for part in (header, *parts)])

    def close(self) -> None:
        """Cut the connection; the reader and all writers find out."""
        with contextlib.suppress(OSError):  # the peer was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def _fill(self, target: memoryview) -> None:
        while target:
            allowed = self._traffic.allowance(0)
            try:
                count = self._socket.recv_into(target[:allowed])
            except OSError as error:
                raise ConnectionClosed from error
            if count == 0:
                raise ConnectionClosed
            self._traffic.wait(0, count)
            self._traffic.passed(0, count)
            target = target[count:]

    def _send_all(self, parts: list[memoryview]) -> None:
        while parts:
            try:
                allowed = self._traffic.allowance(1)
                batch = parts if allowed is None else [parts[0][:allowed]]
                self._traffic.wait(1, sum(map(len, batch)))
                count = self._socket.sendmsg(batch)
            except (OSError, ConnectionClosed) as error:
                self.close()
                raise ConnectionClosed from error
            self._traffic.passed(1, count)
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if count:
                parts[0] = parts[0][count:]
