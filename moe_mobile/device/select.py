# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""From what a user says to a device."""

from __future__ import annotations

import os
from collections.abc import Iterable

from moe_mobile.device.interface import Device
from moe_mobile.errors import DeviceError, UsageError

__all__ = ["ANY", "open_device", "open_devices"]

ANY = "any"
"""Stands for the one device that is connected, or the one that ``ANDROID_SERIAL`` names."""

_CONNECT = (
    "Connect a phone with USB debugging on, give --device HOST:PORT for Wi-Fi, or start a virtual "
    "one with `moe-mobile virtual-phone start`"
)


def open_device(serial: str | None) -> Device:
    """The device of a ``--device`` option; this machine where it was not given.

    Raises DeviceError where it is not there or not usable, or where :data:`ANY` is not one.
    """
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


def open_devices(serials: Iterable[str], *, every: bool, otherwise: str | None) -> list[Device]:
    """The devices of ``--device`` options and ``--all``; ``otherwise`` where neither was given.

    Raises UsageError where both were, DeviceError as :func:`open_device`.
    """
    named = list(dict.fromkeys(serials))
    if every and named:
        raise UsageError("--all and --device contradict each other")
    return _all_devices() if every else [open_device(s) for s in named or (otherwise,)]


def _all_devices() -> list[Device]:
    """Every device that is ready. Raises DeviceError where none is."""
    from moe_mobile.device.adb import AdbDevice
    from moe_mobile.device.adb_server import AdbServer

    server = AdbServer()
    states = server.states()
    ready = [serial for serial, state in states.items() if state == "device"]
    if not ready:
        raise _none(states)
    return [AdbDevice(server, serial) for serial in ready]


def _only(states: dict[str, str]) -> str:
    if len(states) == 1:
        return next(iter(states))
    if not states:
        raise _none(states)
    raise DeviceError(
        f"{len(states)} devices are connected: {', '.join(states)}",
        setting="--device",
        remedy="Name one with --device SERIAL or ANDROID_SERIAL",
    )


def _none(states: dict[str, str]) -> DeviceError:
    if states:
        listed = ", ".join(f"{serial} is {state}" for serial, state in states.items())
        return DeviceError(f"no device is ready: {listed}", remedy="`moe-mobile devices` says why")
    return DeviceError("no device is connected", remedy=_CONNECT)
