# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One service's byte stream on a connection."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator

from moe_mobile.virtual_phone.wire import CLSE, MAX_PAYLOAD, OKAY, WRTE, ProtocolError, Wire

# The peer may send the next packet as soon as we acknowledge one: so much may wait here.
_READ_AHEAD = 4 * MAX_PAYLOAD


class StreamClosed(Exception):
    """The peer closed the stream, or is gone."""


class Stream:
    """Bytes to and from the client of one service.

    The connection's thread feeds it; the service's threads take and write.
    """

    def __init__(self, wire: Wire, local_id: int, remote_id: int, max_payload: int) -> None:
        self.local_id = local_id
        self.remote_id = remote_id
        self._wire = wire
        self._max_payload = max_payload
        self._changed = threading.Condition()
        self._queue: collections.deque[memoryview] = collections.deque()
        self._queued = 0
        self._unacknowledged = False
        self._ready = True
        self._closed = False
        self._on_close: Callable[[], None] | None = None
        self._input_ended = False
        self._rest = memoryview(b"")
        self._spent: memoryview | None = None

    @property
    def closed(self) -> bool:
        """Whether the peer closed it."""
        return self._closed

    # ---- the connection's side

    def feed(self, payload: memoryview) -> None:
        """Take in a packet's payload, and say that the next may come unless much is waiting."""
        with self._changed:
            if self._unacknowledged:
                raise ProtocolError("data before the last was acknowledged")
            if payload:
                self._queue.append(payload)
            self._queued += len(payload)
            self._unacknowledged = self._queued > _READ_AHEAD
            acknowledge = not self._unacknowledged
            self._changed.notify_all()
        if acknowledge:
            self._wire.send(OKAY, self.local_id, self.remote_id)

    def peer_is_ready(self) -> None:
        """The peer acknowledged what we wrote last."""
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def peer_closed(self) -> None:
        """The peer takes nothing any more and sends nothing any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._on_close is not None:
                self._on_close()

    # ---- the service's side

    def on_close(self, call: Callable[[], None] | None) -> None:
        """Have `call`, which must not block, called once the peer closed it; None: nothing is
        called once this has returned."""
        with self._changed:
            self._on_close = call
            if call is not None and self._closed:
                call()

    def take(self, limit: int) -> memoryview:
        """Between 1 and `limit` bytes, valid until the next call.

        Raises:
            StreamClosed: the peer closed the stream and all it sent was taken.
        """
        if not self._rest:
            self._next()
        part = self._rest[:limit]
        self._rest = self._rest[limit:]
        return part

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, a small number."""
        parts = [bytes(part) for part in self.pieces(count)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self, count: int) -> Iterator[memoryview]:
        """Exactly `count` bytes in pieces, each valid until the next."""
        while count:
            part = self.take(count)
            count -= len(part)
            yield part

    def write(self, *parts: bytes | memoryview) -> None:
        """Send the parts one after the other, as one packet if they fit into one.

        Raises:
            StreamClosed: the peer closed the stream.
        """
        if sum(map(len, parts)) <= self._max_payload:
            self._write_packet(*parts)
            return
        whole = memoryview(b"".join(parts))
        for start in range(0, len(whole), self._max_payload):
            self._write_packet(whole[start : start + self._max_payload])

    def end_input(self) -> None:
        """Take no more: what waits in `take`, in another thread, sees the stream closed."""
        with self._changed:
            self._input_ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Tell the peer that the service is done."""
        self._wire.send(CLSE, self.local_id, self.remote_id)

    @property
    def max_payload(self) -> int:
        """Bytes that fit into one packet."""
        return self._max_payload

    def _next(self) -> None:
        if self._spent is not None:
            self._wire.recycle(self._spent)
            self._spent = None
        with self._changed:
            while not self._queue:
                if self._closed or self._input_ended:
                    raise StreamClosed
                self._changed.wait()
            payload = self._queue.popleft()
            self._queued -= len(payload)
            acknowledge = self._unacknowledged and self._queued <= _READ_AHEAD
            if acknowledge:
                self._unacknowledged = False
        if acknowledge and not self._closed:
            self._wire.send(OKAY, self.local_id, self.remote_id)
        self._rest = self._spent = payload

    def _write_packet(self, *parts: bytes | memoryview) -> None:
        with self._changed:
            while not self._ready:
                if self._closed:
                    raise StreamClosed
                self._changed.wait()
            if self._closed:
                raise StreamClosed
            self._ready = False
        self._wire.send(WRTE, self.local_id, self.remote_id, *parts)
