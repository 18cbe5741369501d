# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of bytes as options."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import click

__all__ = ["SIZE"]


class _Size(click.ParamType[int]):
    """A number of bytes: 512MiB, 2GiB, 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from moe_mobile.virtual_phone.settings import BYTE_UNITS

        match = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)", str(value))
        if match is None or match[2] not in BYTE_UNITS:
            self.fail(f"{value!r} is no size such as 512MiB or 2GiB", param, ctx)
        return int(Fraction(match[1]) * BYTE_UNITS[match[2]])


SIZE = _Size()
