# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Locks on a device, so that two commands do not work on the same thing there."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Iterator

from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.deploy.inventory import ROOT
from moe_mobile.device.deploy.transfer import device_error
from moe_mobile.device.shell_stream import ShellStream
from moe_mobile.errors import DeviceError, IoError, UnsupportedError

__all__ = ["STALE_S", "lock"]

STALE_S = 15
"""A lock whose owner was not heard of for so many seconds is free: Wi-Fi ends without a word."""

_BEAT_S = 4.0
_ANSWER_S = 60.0
_BUSY = 75
_SCRIPT = """
command -v flock >/dev/null || exit 127
mkdir -p {root}/bundles {root}/runtime && cd {root} && exec 9>>{name} || exit
i=0; until flock -n 9; do i=$((i+1)); [ $i -le {tries} ] || exit {busy}; sleep 0.5; done
echo held; while read -t {stale} -r beat; do :; done
"""


@contextlib.contextmanager
def lock(server: AdbServer, serial: str, name: str, busy: str, wait_s: float) -> Iterator[None]:
    """Hold the lock of that name, waited for so long; it ends with this process or connection.

    Raises IoError saying ``busy`` where another command has it, DeviceError, and ReadOnlyError or
    DiskFullError where the device lets nobody make our folders.
    """
    with _take(server, serial, name, busy, wait_s) as stream:
        done = threading.Event()
        threading.Thread(target=_beat, args=(stream, done), daemon=True).start()
        try:
            yield
        finally:
            done.set()


def _take(server: AdbServer, serial: str, name: str, busy: str, wait_s: float) -> ShellStream:
    script = _SCRIPT.format(
        root=ROOT, name=shlex.quote(name), tries=int(wait_s * 2), busy=_BUSY, stale=STALE_S
    )
    stream = server.shell(serial, script, timeout=_ANSWER_S)
    try:
        if stream.read_line():
            return stream
        code = stream.wait()
    except OSError:
        stream.close()
        raise DeviceError("the connection broke", setting=serial) from None
    stream.close()
    if code == 127:
        raise UnsupportedError(
            "this device has no flock", setting=serial, remedy="Android has it since version 7"
        )
    if code == _BUSY:
        raise IoError(
            busy, file=f"{ROOT} on {serial}", remedy="Wait for it to end, then run this again"
        )
    raise device_error(serial, ROOT, stream.stderr.decode(errors="replace"), code)


def _beat(stream: ShellStream, done: threading.Event) -> None:
    # The stream may be closed meanwhile; of a device that is lost, what works there tells.
    with contextlib.suppress(OSError, ValueError):
        while not done.wait(_BEAT_S):
            stream.write(b"\n")
