# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files over parallel streams to a device, piece by piece.

A stream is `cat` in the device's shell: unlike adb's sync service it keeps what arrived when it
breaks, and it tells why it failed. It carries one piece of a file. What is written to a socket may
never arrive, so a piece counts once the device says how long the file is. Several streams fill the
connection better than one, because a stream waits for each packet's answer
(docs/findings/phones.md).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from moe_mobile.base import limits
from moe_mobile.base.files import open_regular
from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.pace import Pace
from moe_mobile.device.deploy.plan import Send
from moe_mobile.device.deploy.told import LAPSED, device_error, odd, stream_error
from moe_mobile.device.script_output import number
from moe_mobile.device.shell_stream import MAX_FRAME, ShellStream
from moe_mobile.errors import CancelledError, DeviceError, IoError, MoeMobileError, read_error

_OTHER_SIZE = 77

# Says how long the file f of the folder is, adds what it is sent, and says it again. n: how long it
# should be, else nothing is added. e: what is there is wrong.
#
# A connection that breaks hangs up on the writer, which would lose what it has in its pipe. It may
# still be writing when we connect again: wait for its end, and see what it left. If its connection
# died silently, the writer never ends: leave the file to it and use a copy. One that waited for us
# has lost its lock when its turn comes, and must not touch the file.
_RECEIVER = """trap '' HUP
guard() {{ :
{guard}}}
guard
f={folder}/$f
exec 9>>"$f" || exit
i=0
until flock -n 9; do
  i=$((i+1))
  if [ $i -ge 12 ]; then
    guard
    cp "$f" "$f.free" || exit
    guard
    mv -f "$f.free" "$f" && exec 9>>"$f" || exit
    i=0
  fi
  sleep 0.5
done
guard
[ -z "$e" ] || : >"$f" || exit
s=0
[ ! -s "$f" ] || s=$(stat -c %s "$f") || exit
echo $s
[ "${{n:-$s}}" = $s ] || exit {other}
cat >&9 && exec stat -c %s "$f"
"""


def send_files(
    server: AdbServer,
    serial: str,
    folder: str,
    sends: Sequence[Send],
    *,
    receiver: str,
    total: int,
    careful: bool,
    sent: Callable[[int], None],
    arrived: Callable[[Send], None],
    aborted: threading.Event,
) -> None:
    """Send files into a folder below the root; the folders they need must exist.

    ``receiver``: the name of the script that :func:`make_receiver` made there. ``total``: bytes of
    the package. ``careful``: the connection broke before.
    ``sent`` is called with numbers of bytes, ``arrived`` with each file that the device has taken
    in, both from several threads. The first error ends all streams, and so does ``aborted``.

    Raises LostError if the connection breaks, or if the device does not say in time that it has
    what it was sent; DeviceError, DiskFullError, ReadOnlyError, IoError, CancelledError.
    """

    def count(size: int) -> None:
        if aborted.is_set():
            raise CancelledError("stopped by the user")
        sent(size)

    pace = Pace(total, careful=careful)
    sender = _Sender(server, serial, folder, receiver, count, pace)

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

    with concurrent.futures.ThreadPoolExecutor(pace.lanes) as pool:
        try:
            for future in [pool.submit(lane, send) for send in sends]:
                future.result()
        finally:
            sender.stop.set()


def make_receiver(guard: str, folder: str) -> tuple[str, str]:
    """The name below the root of the script that takes files into a folder there, and a script
    that makes it.

    It lies there because it is longer than pieces of small files. Each owner of the lock has its
    own: ``guard`` is what a script begins with that writes there.
    """
    name = f".to.{hashlib.sha256(guard.encode()).hexdigest()[:8]}"
    text = _RECEIVER.format(guard=guard, folder=shlex.quote(folder), other=_OTHER_SIZE)
    return name, f"rm -f .to.* && printf %s {shlex.quote(text)} > {name}"


class _Sender:
    """What all streams of :func:`send_files` have in common."""

    def __init__(
        self,
        server: AdbServer,
        serial: str,
        folder: str,
        receiver: str,
        sent: Callable[[int], None],
        pace: Pace,
    ) -> None:
        self._server, self._serial = server, serial
        self._folder, self._receiver = folder, receiver
        self._sent, self._pace = sent, pace
        self.stop = threading.Event()

    def send(self, send: Send) -> None:
        """Send a file piece by piece, until the device says that it has all of it."""
        again = send.again
        had, has = self._piece(send, 0 if again else send.offset, again=again)
        if has > send.file.bytes:
            again = True
            had, has = self._piece(send, 0, again=again)
        if again and had != 0:
            raise self._not_kept(send, 0, had)
        while has != send.file.bytes and not self.stop.is_set():
            had, now = self._piece(send, has)
            if had != has:
                raise self._not_kept(send, has, had)
            has = now

    def _piece(self, send: Send, expected: int, *, again: bool = False) -> tuple[int, int]:
        """Send one piece: bytes that the device had, and that it has now.

        ``expected``: bytes that it should have. ``again``: what it has is wrong, and goes.
        """
        ahead = self._pace.ahead
        script = (
            f"f={shlex.quote(send.file.path)}"
            f"{f' n={expected}' if ahead else ''}{' e=1' if again else ''};"
            # Only a later owner of the lock removes it.
            f"cd {phone_root()}&&[ -f {self._receiver} ]||exit {LAPSED};. ./{self._receiver}"
        )
        most, seconds = limits.LINE_BYTES, limits.PIECE_S
        with self._server.shell(self._serial, script, seconds=seconds, most=most) as stream:
            try:
                had = expected if ahead else self._size(stream.read_line())
                size = self._pace.piece(max(0, send.file.bytes - had))
                began = time.monotonic()
                stream.within(seconds)
                left = size
                for data in _parts(send, had, size):
                    if self.stop.is_set():
                        return had, had
                    left -= len(data)
                    if not stream.write(data, last=not left):
                        break
                    self._sent(len(data))
                if not size:
                    stream.close_stdin()
                code = stream.wait()
            except MoeMobileError:
                if stream.exit_code:
                    raise self._failed(send, stream) from None
                raise
            except OSError as error:
                when = "while files were sent"
                raise stream_error(error, self._serial, seconds, when) from None
        if code not in (0, _OTHER_SIZE):
            raise self._failed(send, stream)
        has = self._size(stream.stdout.decode(errors="replace").rstrip("\n").rpartition("\n")[2])
        if code == _OTHER_SIZE:
            return has, has
        if has != had + size:
            raise self._not_kept(send, had + size, has)
        if size:
            self._pace.took(size, time.monotonic() - began)
        return had, has

    def _path(self, send: Send) -> str:
        return f"{phone_root()}/{self._folder}/{send.file.path}"

    def _failed(self, send: Send, stream: ShellStream) -> MoeMobileError:
        return device_error(self._serial, self._path(send), stream.stderr, stream.exit_code or 0)

    def _not_kept(self, send: Send, sent: int, kept: int) -> DeviceError:
        return DeviceError(
            f"the device took {sent} bytes of this file and says that it has {kept}",
            file=f"{self._path(send)} on {self._serial}",
            remedy="Its flash may be failing: check that it keeps what you copy to it",
        )

    def _size(self, line: str) -> int:
        size = number(line)
        if size is None or size < 0:
            raise odd(self._serial, "length of a file", line)
        return size


def _parts(send: Send, offset: int, left: int) -> Iterator[memoryview]:
    """A part of a file, a frame at a time; each is valid until the next is asked for."""
    buffer = memoryview(bytearray(min(left, MAX_FRAME)))
    try:
        with open_regular(send.file.source) as source:
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
