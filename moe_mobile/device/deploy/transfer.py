# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files over parallel streams to a device, from an offset on.

A stream is `cat` in the device's shell: unlike adb's sync service it keeps what arrived when it
breaks, and it tells why it failed. Three of them fill the connection better than one, because a
stream waits for each packet's answer (docs/findings/phones.md).
"""

from __future__ import annotations

import concurrent.futures
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence

from moe_mobile.base.command_line import command_line
from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.plan import Send
from moe_mobile.device.shell_stream import MAX_FRAME
from moe_mobile.errors import (
    CancelledError,
    DeviceError,
    DiskFullError,
    IoError,
    ReadOnlyError,
    read_error,
)

LANES = 3
LAPSED = 76
"""Exit code of scripts whose lock is not theirs any more."""

_STALL_SECONDS = 60.0
_AGAIN = "Reconnect the device and run the same command again: it continues where it stopped"


def send_files(
    server: AdbServer,
    serial: str,
    folder: str,
    sends: Sequence[Send],
    *,
    guard: str,
    sent: Callable[[int], None],
    arrived: Callable[[Send], None],
    aborted: threading.Event,
) -> None:
    """Send files into a folder below the root; the folders they need must exist.

    ``guard``: what a script begins with that writes there.
    ``sent`` is called with numbers of bytes, ``arrived`` with each file that the device has taken
    in, both from several threads. The first error ends all streams, and so does ``aborted``.

    Raises DeviceError, DiskFullError, ReadOnlyError, IoError, CancelledError.
    """
    stop = threading.Event()

    def count(size: int) -> None:
        if aborted.is_set():
            raise CancelledError("stopped by the user")
        sent(size)

    def lane(send: Send) -> None:
        if stop.is_set():
            return
        try:
            _send_file(server, serial, folder, send, guard, count, stop)
        except BaseException:
            stop.set()
            raise
        if not stop.is_set():
            arrived(send)

    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        try:
            for future in [pool.submit(lane, send) for send in sends]:
                future.result()
        finally:
            stop.set()


def _send_file(
    server: AdbServer,
    serial: str,
    folder: str,
    send: Send,
    guard: str,
    sent: Callable[[int], None],
    stop: threading.Event,
) -> None:
    path = f"{phone_root()}/{folder}/{send.file.path}"
    quoted = shlex.quote(path)
    # A connection that breaks hangs up on the writer, which would lose what it has in its pipe.
    # It may then still be at it when we come again: wait for its end, and see what it left.
    # If its connection died silently, the writer never ends: leave the file to it and use a copy.
    # One that waited for us has lost its lock when its turn comes, and must not touch the file.
    script = (
        f"trap '' HUP; {guard}exec 9>>{quoted} && i=0 && until flock -n 9; do i=$((i+1)); "
        f"[ $i -lt 12 ] || {{ cp {quoted} {quoted}.free && mv -f {quoted}.free {quoted} && "
        f"exec 9>>{quoted} && i=0; }} || exit; sleep 0.5; done\n{guard}"
    )
    if send.offset:
        script += f'[ "$(stat -c %s {quoted})" = {send.offset} ] && cat >&9'
    else:
        script += f"cat > {quoted}"
    with server.shell(serial, script, timeout=_STALL_SECONDS) as stream:
        try:
            for data in _parts(send):
                if stop.is_set():
                    return
                if not stream.write(data):
                    break
                sent(len(data))
            else:
                stream.close_stdin()
            code = stream.wait()
        except IoError:  # of the file that is sent
            raise
        except TimeoutError:
            raise DeviceError(
                f"nothing moved for {_STALL_SECONDS:.0f} s", setting=serial, remedy=_AGAIN
            ) from None
        except OSError:
            raise DeviceError(
                "the connection broke while files were sent", setting=serial, remedy=_AGAIN
            ) from None
        if code != 0:
            raise device_error(serial, path, stream.stderr.decode(errors="replace"), code)


def _parts(send: Send) -> Iterator[memoryview]:
    """What is to be sent, a frame at a time; each is valid until the next is asked for."""
    buffer = memoryview(bytearray(MAX_FRAME))
    left = send.bytes
    try:
        with open(send.file.source, "rb", buffering=0) as source:
            source.seek(send.offset)
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


def device_error(serial: str, path: str, stderr: str, exit_code: int) -> IoError | DeviceError:
    """The error for a script that failed in our folder on a device."""
    place = f"{path} on {serial}"
    if exit_code == LAPSED:
        return IoError(
            "this command was inactive for so long that another one may be using the device",
            file=place,
            remedy="Run it again: it continues where it stopped",
        )
    told = stderr.strip().splitlines()[-1] if stderr.strip() else f"exit code {exit_code}"
    if "No space left" in told or "quota" in told.lower():
        return DiskFullError(
            "no space left on the device",
            file=place,
            remedy="Free some space there, or delete old deployments with "
            f"`{command_line('deploy', 'BUNDLE', replace=True)}`",
        )
    if "Read-only" in told or "Permission denied" in told:
        return ReadOnlyError(
            f"not writable: {told}",
            file=place,
            remedy=f"adb's shell must be able to write there: see `adb -s {serial} shell ls -la`",
        )
    return DeviceError(f"a script failed there: {told}", file=place, remedy=_AGAIN)
