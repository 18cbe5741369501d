# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The one kind of error after which trying again may help."""

from __future__ import annotations

from moe_mobile.errors import DeviceError


class LostError(DeviceError, code=DeviceError.code, exit_code=DeviceError.exit_code):
    """The connection broke, or what is at its other end is silent.

    A script that ran and failed is another DeviceError: it would fail again.
    """
