# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Locks on a device, so that two commands do not work on the same thing there."""

from __future__ import annotations

import shlex

from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.deploy.inventory import ROOT
from moe_mobile.device.deploy.transfer import device_error
from moe_mobile.device.shell_stream import ShellStream
from moe_mobile.errors import DeviceError, IoError

__all__ = ["take_lock"]

_ANSWER_S = 60.0
_BUSY = 75
# Held by `cat`, which ends with our end of the connection, however that comes.
_SCRIPT = """
mkdir -p {root}/bundles {root}/runtime && cd {root} && exec 9>>{name} || exit
i=0; until flock -n 9; do i=$((i+1)); [ $i -le {tries} ] || exit {busy}; sleep 0.5; done
echo held; exec cat >/dev/null
"""


def take_lock(server: AdbServer, serial: str, name: str, busy: str, wait_s: float) -> ShellStream:
    """The lock of that name, to be used in `with`, waited for so long.

    Raises IoError saying ``busy`` where another command has it, DeviceError, and ReadOnlyError or
    DiskFullError where the device lets nobody make our folders.
    """
    script = _SCRIPT.format(root=ROOT, name=shlex.quote(name), tries=int(wait_s * 2), busy=_BUSY)
    stream = server.shell(serial, script, timeout=_ANSWER_S)
    try:
        if stream.read_line():
            return stream
        code = stream.wait()
    except OSError:
        stream.close()
        raise DeviceError("the connection broke", setting=serial) from None
    stream.close()
    if code == _BUSY:
        raise IoError(
            busy, file=f"{ROOT} on {serial}", remedy="Wait for it to end, then run this again"
        )
    raise device_error(serial, ROOT, stream.stderr.decode(errors="replace"), code)
