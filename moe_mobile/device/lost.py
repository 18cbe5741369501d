# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The one kind of error after which trying again may help, and two of that kind."""

from __future__ import annotations

from moe_mobile.errors import DeviceError

_AGAIN = "Check its cable or network and that it works normally, then run this again"


class LostError(DeviceError, code=DeviceError.code, exit_code=DeviceError.exit_code):
    """The connection broke, or what is at its other end is silent.

    A script that ran and failed is another DeviceError: it would fail again.
    """


def silent(serial: str, seconds: float) -> LostError:
    """The error of a device that says nothing, while adb's server does."""
    return LostError(f"it did not answer in {seconds:.0f} s", setting=serial, remedy=_AGAIN)


def broken(serial: str) -> LostError:
    """The error of a device whose connection broke and is there again."""
    return LostError("the connection to the device broke", setting=serial, remedy=_AGAIN)
