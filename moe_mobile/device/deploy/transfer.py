# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files over parallel streams to a device, piece by piece.

A stream is `cat` in the device's shell: unlike adb's sync service it keeps what arrived when it
breaks, and it tells why it failed. It carries one piece of a file. What is written to a socket may
never arrive, so a piece counts once the device says how long the file is. Three streams fill the
connection better than one, because a stream waits for each packet's answer
(docs/findings/phones.md).
"""

from __future__ import annotations

import concurrent.futures
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from moe_mobile.base import limits
from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.pace import Pace
from moe_mobile.device.deploy.plan import Send
from moe_mobile.device.deploy.told import device_error, odd, stream_error
from moe_mobile.device.script_output import number
from moe_mobile.device.shell_stream import MAX_FRAME
from moe_mobile.errors import CancelledError, DeviceError, IoError, MoeMobileError, read_error

LANES = 3


def send_files(
    server: AdbServer,
    serial: str,
    folder: str,
    sends: Sequence[Send],
    *,
    guard: str,
    total: int,
    sent: Callable[[int], None],
    arrived: Callable[[Send], None],
    aborted: threading.Event,
) -> None:
    """Send files into a folder below the root; the folders they need must exist.

    ``guard``: what a script begins with that writes there. ``total``: bytes of the package.
    ``sent`` is called with numbers of bytes, ``arrived`` with each file that the device has taken
    in, both from several threads. The first error ends all streams, and so does ``aborted``.

    Raises LostError if the connection breaks, or if the device does not say in time that it has
    what it was sent; DeviceError, DiskFullError, ReadOnlyError, IoError, CancelledError.
    """

    def count(size: int) -> None:
        if aborted.is_set():
            raise CancelledError("stopped by the user")
        sent(size)

    sender = _Sender(server, serial, folder, guard, count, Pace(total))

    def lane(send: Send) -> None:
        if sender.stop.is_set():
            return
        try:
            sender.send(send)
        except BaseException:
            sender.stop.set()
            raise
        if not sender.stop.is_set():
            arrived(send)

    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        try:
            for future in [pool.submit(lane, send) for send in sends]:
                future.result()
        finally:
            sender.stop.set()


class _Sender:
    """What all streams of :func:`send_files` have in common."""

    def __init__(
        self,
        server: AdbServer,
        serial: str,
        folder: str,
        guard: str,
        sent: Callable[[int], None],
        pace: Pace,
    ) -> None:
        self._server, self._serial = server, serial
        self._folder, self._guard = folder, guard
        self._sent, self._pace = sent, pace
        self.stop = threading.Event()

    def send(self, send: Send) -> None:
        """Send a file piece by piece, until the device says that it has all of it."""
        has = self._piece(send, again=send.again)
        if has > send.file.bytes:
            has = self._piece(send, again=True)
        while has != send.file.bytes and not self.stop.is_set():
            has = self._piece(send, has=has)

    def _piece(self, send: Send, *, again: bool = False, has: int | None = None) -> int:
        """Send one piece; the bytes that the device has then.

        ``again``: what it has is wrong. ``has``: bytes that it said it has; None: it was not asked.
        """
        path = f"{phone_root()}/{self._folder}/{send.file.path}"
        script = _script(shlex.quote(path), self._guard, again=again)
        most, seconds = limits.LINE_BYTES, limits.PIECE_S
        with self._server.shell(self._serial, script, seconds=seconds, most=most) as stream:
            try:
                said = stream.read_line()
                if not said:
                    raise device_error(self._serial, path, stream.stderr, stream.wait())
                had = self._size(said)
                if again:
                    has = 0
                if has is not None and had != has:
                    raise _not_kept(f"{path} on {self._serial}", has, had)
                size = self._pace.piece(max(0, send.file.bytes - had))
                began = time.monotonic()
                stream.within(seconds)
                for data in _parts(send, had, size):
                    if self.stop.is_set():
                        return had
                    if not stream.write(data):
                        break
                    self._sent(len(data))
                else:
                    stream.close_stdin()
                code = stream.wait()
            except MoeMobileError:
                raise
            except OSError as error:
                when = "while files were sent"
                raise stream_error(error, self._serial, seconds, when) from None
        if code != 0:
            raise device_error(self._serial, path, stream.stderr, code)
        has = self._size(stream.stdout.decode(errors="replace").splitlines()[-1])
        if has != had + size:
            raise _not_kept(f"{path} on {self._serial}", had + size, has)
        if size:
            self._pace.took(size, time.monotonic() - began)
        return has

    def _size(self, line: str) -> int:
        size = number(line)
        if size is None or size < 0:
            raise odd(self._serial, "length of a file", line)
        return size


def _not_kept(file: str, sent: int, kept: int) -> DeviceError:
    return DeviceError(
        f"the device took {sent} bytes of this file and says that it has {kept}",
        file=file,
        remedy="Its flash may be failing: check that it keeps what you copy to it",
    )


def _script(path: str, guard: str, *, again: bool) -> str:
    """Says how much of a file is there, adds what it is sent, and says it again.

    A connection that breaks hangs up on the writer, which would lose what it has in its pipe. It
    may then still be at it when we come again: wait for its end, and see what it left. If its
    connection died silently, the writer never ends: leave the file to it and use a copy. One that
    waited for us has lost its lock when its turn comes, and must not touch the file.
    """
    empty = ': >"$f" && ' if again else ""
    return (
        f"trap '' HUP; f={path}\ng() {{ :\n{guard}}}\n"
        'g; exec 9>>"$f" && i=0 && until flock -n 9; do i=$((i+1)); [ $i -lt 12 ] || { g; '
        'cp "$f" "$f.free" && mv -f "$f.free" "$f" && exec 9>>"$f" && i=0; } || exit; '
        f'sleep 0.5; done && g && {empty}stat -c %s "$f" && cat >&9 && stat -c %s "$f"'
    )


def _parts(send: Send, offset: int, left: int) -> Iterator[memoryview]:
    """A part of a file, a frame at a time; each is valid until the next is asked for."""
    buffer = memoryview(bytearray(min(left, MAX_FRAME)))
    try:
        with open(send.file.source, "rb", buffering=0) as source:
            source.seek(offset)
            while left:
                count = source.readinto(buffer[: min(left, MAX_FRAME)])
                if not count:
                    raise IoError(
                        "became shorter while it was sent",
                        file=send.file.source,
                        remedy="Deploy again when nothing else writes to it",
                    )
                yield buffer[:count]
                left -= count
    except OSError as error:
        raise read_error(error, send.file.source) from error
