# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""From what a user says to a device."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from moe_mobile.device.interface import Device
from moe_mobile.errors import DeviceError, MoeMobileError, UsageError

ANY = "any"
"""Stands for the one device that is connected, or the one that ``ANDROID_SERIAL`` names."""

_CONNECT = (
    "Connect a phone with USB debugging on, give `device` HOST:PORT for Wi-Fi, or start a virtual "
    "one with `moe-mobile virtual-phone start`"
)


def open_device(serial: str | None) -> Device:
    """The device of that serial; this machine for None.

    Raises DeviceError if it is not there or not usable, or if :data:`ANY` is not one,
    UsageError if the serial is empty.
    """
    if serial == "":
        raise UsageError("the serial is empty", setting="device", remedy="Give adb's serial")
    if serial is None:
        from moe_mobile.device.local import LocalDevice

        return LocalDevice()
    from moe_mobile.device.adb import AdbDevice
    from moe_mobile.device.adb_server import AdbServer

    server = AdbServer()
    if serial == ANY:
        serial = os.environ.get("ANDROID_SERIAL") or _only(server.states())
    server.require(serial)
    return AdbDevice(server, serial)


@dataclasses.dataclass(frozen=True)
class Opened:
    """What became of each device that was asked for, by serial, in that order."""

    by_serial: dict[str, Device | MoeMobileError]

    @property
    def devices(self) -> list[Device]:
        """Those that are ready."""
        return [one for one in self.by_serial.values() if isinstance(one, Device)]

    @property
    def failed(self) -> dict[str, MoeMobileError]:
        """Why the others are not."""
        found = self.by_serial.items()
        return {serial: one for serial, one in found if isinstance(one, MoeMobileError)}


def open_devices(serials: Iterable[str], *, every: bool, otherwise: str | None) -> Opened:
    """The devices of these serials, or every one; ``otherwise`` if neither is given.

    If one of several cannot be used, the others still are. If none can be used, there are no
    devices and one error each, for the caller to report.

    Raises UsageError if both were given or a serial is empty, DeviceError if adb does not
    work, if a single device cannot be used, or if ``every`` finds none that is ready.
    """
    named = list(dict.fromkeys(serials))
    if every and named:
        raise UsageError(
            "`every` and `device` contradict each other",
            setting="every",
            remedy="Leave one of them out",
        )
    if every:
        return _all_devices()
    if len(named) < 2:
        device = open_device(named[0] if named else otherwise)
        return Opened({device.serial: device})
    from moe_mobile.device.adb_server import AdbServer

    AdbServer().states()  # without adb there is one error, not one for each
    opened: dict[str, Device | MoeMobileError] = {}
    for serial in named:
        try:
            device = open_device(serial)
            opened[device.serial] = device
        except UsageError:  # of the command, not of one device
            raise
        except MoeMobileError as error:
            opened[serial] = error
    return Opened(opened)


def _all_devices() -> Opened:
    """Every device that adb has. Raises DeviceError if none is ready."""
    from moe_mobile.device.adb import AdbDevice
    from moe_mobile.device.adb_server import AdbServer, unusable

    server = AdbServer()
    states = server.states()
    if "device" not in states.values():
        raise _none(states)
    return Opened(
        {
            serial: AdbDevice(server, serial) if state == "device" else unusable(serial, state)
            for serial, state in states.items()
        }
    )


def _only(states: dict[str, str]) -> str:
    if len(states) == 1:
        return next(iter(states))
    if "device" not in states.values():
        raise _none(states)
    raise DeviceError(
        f"{len(states)} devices are connected: {', '.join(states)}",
        setting="device",
        remedy="Name one with `device` or ANDROID_SERIAL",
    )


def _none(states: dict[str, str]) -> DeviceError:
    from moe_mobile.device.adb_server import unusable

    if states:
        listed = ", ".join(f"{serial} is {state}" for serial, state in states.items())
        remedies = (
            f"{serial}: {unusable(serial, state).remedy}" for serial, state in states.items()
        )
        return DeviceError(f"no device is ready: {listed}", remedy=". ".join(remedies))
    return DeviceError("no device is connected", remedy=_CONNECT)
