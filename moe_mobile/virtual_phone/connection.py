# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One client on a phone's port: the handshake, and packets to and from its streams."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from moe_mobile.virtual_phone.stream import Stream, StreamClosed
from moe_mobile.virtual_phone.wire import (
    AUTH,
    CLSE,
    CNXN,
    MAX_PAYLOAD,
    OKAY,
    OPEN,
    VERSION_WITHOUT_CHECKSUMS,
    WRTE,
    ConnectionClosed,
    ProtocolError,
    Wire,
)

Service = Callable[[Stream, str, str], None]
"""Serves a stream: called with it, the part of its name before the colon, and the rest."""

FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir,fixed_push_symlink_timestamp,sendrecv_v2"
_OLDEST_VERSION = 0x01000000
_SMALLEST_PAYLOAD = 4096
_TOKEN, _SIGNATURE = 1, 2
_TOKEN_SIZE = 20
_MOST_STREAMS = 256


@dataclass
class Door:
    """Whom a phone lets in, and as what it presents itself."""

    banner: str
    unauthorized: bool = False
    offline: bool = False


class Connection:
    """Runs in a thread of its own, each service in another.

    Args:
        service: what serves a stream of that kind; None if nothing serves it.
        room: is taken for every service that runs, on all connections; if no room is left, streams
            are refused.
    """

    def __init__(
        self,
        wire: Wire,
        door: Door,
        service: Callable[[str], Service | None],
        room: threading.Semaphore,
    ) -> None:
        self._wire = wire
        self._door = door
        self._service = service
        self._room = room
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        self._greeting: tuple[int, int] | None = None
        self._max_payload = _SMALLEST_PAYLOAD
        self._accepted = False

    def run(self) -> None:
        """Serve until the client leaves or breaks the protocol."""
        try:
            while True:
                self._packet(*self._wire.receive())
        except (ConnectionClosed, ProtocolError):
            self._wire.close()
        finally:
            for stream in list(self._streams.values()):
                stream.peer_closed()

    def _packet(self, command: int, first: int, second: int, payload: memoryview) -> None:
        if command == WRTE and self._accepted:
            stream = self._stream(second, first)
            if stream is not None:
                stream.feed(payload)
            else:
                self._wire.send(CLSE, 0, first)
            return
        if command == CNXN:
            self._greet(first, second)
        elif command == AUTH:
            self._authenticate(first)
        elif not self._accepted:
            raise ProtocolError("a client that was not let in")
        elif command == OPEN:
            self._open(first, bytes(payload))
        elif command == OKAY:
            stream = self._stream(second, first)
            if stream is not None:
                stream.peer_is_ready()
        elif command == CLSE:
            stream = self._streams.get(second)
            if stream is not None and first in (0, stream.remote_id):
                self._streams.pop(second, None)
                stream.peer_closed()
        else:
            raise ProtocolError("unknown command")
        self._wire.recycle(payload)

    def _stream(self, local_id: int, remote_id: int) -> Stream | None:
        stream = self._streams.get(local_id)
        return stream if stream is not None and stream.remote_id == remote_id else None

    def _greet(self, version: int, max_payload: int) -> None:
        if version < _OLDEST_VERSION or max_payload < _SMALLEST_PAYLOAD:
            raise ProtocolError("unknown protocol version")
        self._greeting = version, max_payload
        if self._door.offline:
            return
        if self._door.unauthorized:
            self._wire.send(AUTH, _TOKEN, 0, os.urandom(_TOKEN_SIZE))
        else:
            self._accept(version, max_payload)

    def _authenticate(self, kind: int) -> None:
        # No signature is ever known. After the last one the client offers its public key, which a
        # person would have to accept: there is nobody, so nothing is answered.
        if self._greeting is None:
            raise ProtocolError("a key before the greeting")
        if self._door.unauthorized and kind == _SIGNATURE:
            self._wire.send(AUTH, _TOKEN, 0, os.urandom(_TOKEN_SIZE))

    def _accept(self, version: int, max_payload: int) -> None:
        self._max_payload = min(max_payload, MAX_PAYLOAD)
        # The greeting itself is summed up whatever the version.
        banner = self._door.banner.encode()
        self._wire.send(CNXN, VERSION_WITHOUT_CHECKSUMS, MAX_PAYLOAD, banner)
        self._wire.checksums = version < VERSION_WITHOUT_CHECKSUMS
        self._accepted = True

    def _open(self, remote_id: int, name: bytes) -> None:
        kind, _, rest = name.rstrip(b"\0").decode(errors="surrogateescape").partition(":")
        serve = self._service(kind)
        if remote_id == 0 or serve is None or not self._has_room():
            self._wire.send(CLSE, 0, remote_id)
            return
        local_id = self._next_id
        self._next_id = local_id % 0xFFFFFFFF + 1
        stream = Stream(self._wire, local_id, remote_id, self._max_payload)
        self._streams[local_id] = stream
        run = threading.Thread(target=self._serve, args=(serve, stream, kind, rest), daemon=True)
        try:
            run.start()
        except RuntimeError:  # this user has no more threads
            del self._streams[local_id]
            self._room.release()
            self._wire.send(CLSE, 0, remote_id)

    def _has_room(self) -> bool:
        return len(self._streams) < _MOST_STREAMS and self._room.acquire(blocking=False)

    def _serve(self, serve: Service, stream: Stream, kind: str, rest: str) -> None:
        try:
            self._wire.send(OKAY, stream.local_id, stream.remote_id)
            serve(stream, kind, rest)
        except (StreamClosed, ConnectionClosed, ProtocolError):
            pass
        finally:
            self._room.release()
            if self._streams.pop(stream.local_id, None) is not None:
                with contextlib.suppress(ConnectionClosed):
                    stream.close()
