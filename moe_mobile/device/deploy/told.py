# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a script's end, or that of its connection, means."""

from __future__ import annotations

from moe_mobile.base import limits
from moe_mobile.base.command_line import command_line
from moe_mobile.device.lost import LostError
from moe_mobile.device.script_output import decoded
from moe_mobile.errors import DeviceError, DiskFullError, IoError, ReadOnlyError

LAPSED = 76
"""Exit code of scripts whose lock is not theirs any more."""

_AGAIN = "Reconnect the device and run the same command again: it continues where it stopped"


def stream_error(error: OSError, serial: str, seconds: float, when: str) -> DeviceError:
    """The error for a stream that broke, was silent for too long, or printed too much."""
    if isinstance(error, ConnectionAbortedError):
        return endless(serial)
    if isinstance(error, TimeoutError):
        return LostError(f"no answer in {seconds:.0f} s {when}", setting=serial, remedy=_AGAIN)
    return LostError(f"the connection broke {when}", setting=serial, remedy=_AGAIN)


def endless(serial: str) -> DeviceError:
    """The error for a script that prints more than any of ours does."""
    return DeviceError(
        "a script does not stop printing",
        setting=serial,
        remedy="Check that the phone works normally",
    )


def odd(serial: str, what: str, line: str) -> DeviceError:
    """The error for an answer that none of our scripts gives."""
    return DeviceError(
        f"it gave an odd {what}: {line[:100]!r}",
        setting=serial,
        remedy="Check that the phone works normally",
    )


def device_error(
    serial: str, path: str, stderr: bytes | bytearray, exit_code: int
) -> IoError | DeviceError:
    """The error for a script that failed in our folder on a device."""
    place = f"{path} on {serial}"
    if exit_code == LAPSED:
        return IoError(
            "this command was inactive for so long that another one may be using the device",
            file=place,
            remedy="Run it again: it continues where it stopped",
        )
    said = decoded(stderr).strip().splitlines()
    told = said[-1][: limits.TOLD] if said else f"exit code {exit_code}"
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
    return DeviceError(
        f"a script failed there: {told}",
        file=place,
        remedy="Check the device, then run the same command again: it continues where it stopped",
    )
