# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Locks on a device, so that two commands do not work on the same thing there.

A lock's owner may sleep, as a laptop does that is closed, until the lock is free and somebody else
has it. Therefore what writes under it looks first whether it has ended, and its file says whose it
is: a script may be slow to start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shlex
import threading
from collections.abc import Iterator

from moe_mobile.base import limits
from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.told import LAPSED, device_error, odd, stream_error
from moe_mobile.device.shell_stream import ShellStream
from moe_mobile.errors import IoError, UnsupportedError

STALE_S = 15
"""A lock whose owner was not heard of for so many seconds is free: Wi-Fi ends without a word."""

_BEAT_S = 4.0
_BUSY = 75
_WORDS = ("marked", "held")
# Written in place, not as a new file: on a full device it takes room the first time only, and
# then the lock is held without a mark.
_SCRIPT = """
command -v flock >/dev/null || exit 127
mkdir -p {root}/bundles {root}/runtime && cd {root} && exec 9>>{name} || exit
i=0; until flock -n 9; do i=$((i+1)); [ $i -le {tries} ] || exit {busy}; sleep 0.5; done
if echo {mark} 2>/dev/null 1<>{name}; then echo marked; else echo held; fi
while read -t {stale} -r beat; do :; done
"""


@dataclasses.dataclass
class Lock:
    """A lock that is held. ``guard``: shell code that ends a script once somebody else holds it."""

    guard: str
    _stream: ShellStream
    # Of two that read from the stream one sees half of what the other does.
    _reading: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def lapsed(self) -> bool:
        """Whether it has ended, as far as the device has reported. What its shell prints besides
        changes nothing; ConnectionAbortedError if that has no end."""
        with self._reading:
            return self._stream.has_ended()

    def beat(self) -> None:
        """Be heard of. Raises OSError or ValueError if the connection has ended."""
        with self._reading:
            self._stream.within(limits.ANSWER_S)
            self._stream.write(b"\n")


@contextlib.contextmanager
def lock(server: AdbServer, serial: str, name: str, busy: str, wait_s: float) -> Iterator[Lock]:
    """Hold the lock of that name, waited for so long; it ends with this process or connection.

    Raises IoError saying ``busy`` if another command has it, DeviceError, and ReadOnlyError or
    DiskFullError if the device does not let us make our folders.
    """
    mark = secrets.token_hex(8)
    stream, marked = _take(server, serial, name, busy, wait_s, mark)
    look = f'read -r m < {phone_root()}/{name}; [ "$m" = {mark} ] || exit {LAPSED}\n'
    guard = look if marked else ""
    with stream:
        held = Lock(guard, stream)
        done = threading.Event()
        threading.Thread(target=_beat, args=(held, done), daemon=True).start()
        try:
            yield held
        finally:
            done.set()


def _take(
    server: AdbServer, serial: str, name: str, busy: str, wait_s: float, mark: str
) -> tuple[ShellStream, bool]:
    """The stream that holds the lock while it is fed, and whether its file has the mark."""
    script = _SCRIPT.format(
        root=phone_root(), name=shlex.quote(name), tries=int(wait_s * 2), busy=_BUSY, stale=STALE_S,
        mark=mark,
    )  # fmt: skip
    seconds = limits.ANSWER_S + wait_s
    stream = server.shell(serial, script, seconds=seconds, most=limits.LINE_BYTES)
    try:
        line = stream.read_line()
        code = None if line else stream.wait()
    except OSError as error:
        stream.close()
        raise stream_error(error, serial, seconds, "while the device was locked") from None
    if line in _WORDS:
        return stream, line == "marked"
    stream.close()
    if code is None:
        raise odd(serial, "answer about its lock", line)
    if code == 127:
        raise UnsupportedError(
            "this device has no flock", setting=serial, remedy="Android has it since version 7"
        )
    if code == _BUSY:
        raise IoError(
            busy,
            file=f"{phone_root()} on {serial}",
            remedy="Wait for it to end, then run this again",
        )
    raise device_error(serial, phone_root(), stream.stderr, code)


def _beat(held: Lock, done: threading.Event) -> None:
    # The stream may be closed by now; a lost device shows in the next work there.
    with contextlib.suppress(OSError, ValueError):
        while not done.wait(_BEAT_S):
            held.beat()
