# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Virtual phones: adb devices in a sandbox of this machine, with limits and faults on demand."""

from __future__ import annotations

from moe_mobile.virtual_phone.phone import VirtualPhone, find, phones, start
from moe_mobile.virtual_phone.settings import Misbehaviour, PhoneSettings

__all__ = ["Misbehaviour", "PhoneSettings", "VirtualPhone", "find", "phones", "start"]
