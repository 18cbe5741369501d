# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The size of a cache as people write it. The engine decides what a share of the experts is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moe_mobile.base.text import digits
from moe_mobile.errors import UsageError


@dataclass(frozen=True)
class Capacity:
    """What a cache holds of each layer: a share of its experts, or a number of them.

    Attributes:
        text: as it was written.
        percent: above 0, at most 100; None: ``number`` counts.
        number: experts per layer.
    """

    text: str
    percent: float | None = None
    number: int = 0

    def of(self, experts: int) -> int:
        """Whole experts per layer of a model with so many in each. Shares are rounded down.

        Raises UsageError if a layer does not have as many.
        """
        from moe_mobile import _native

        if self.percent is None:
            if self.number > experts:
                meant = f"Was {self.number}% meant? " if self.number <= 100 else ""
                raise UsageError(
                    f"a layer has {experts} experts, fewer than {self.number}",
                    setting="capacity",
                    remedy=f"{meant}Give a share such as 50%, or at most {experts} experts",
                )
            return self.number
        return _native.experts_of_share(self.percent, experts)


def parse_capacity(text: str) -> Capacity:
    """``50%``, or a number of experts per layer. Raises UsageError."""
    text = text.strip()
    if re.fullmatch("0*[1-9][0-9]{0,8}", text) is not None:
        return Capacity(text, number=int(text.lstrip("0")))
    percent = percent_of(text)
    if percent is not None:
        return Capacity(text, percent)
    # Of shares, those above 0 and up to 100 % have returned.
    share = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)%", text, re.ASCII)
    why = ""
    if share is not None:
        why = ": it would hold nothing" if float(share[1]) == 0 else ": more than all experts"
    meant = ""
    if re.fullmatch(r"0?\.\d{1,9}", text, re.ASCII) and float(text) > 0:
        meant = f"Was {digits(100 * float(text))}% meant? "
    raise UsageError(
        f"invalid capacity {text!r}{why}",
        setting="capacity",
        remedy=f"{meant}Give a share of the experts such as 50%, or a number of experts per layer",
    )


def percent_of(text: str) -> float | None:
    """The percent of a share such as ``50%``; None if the text is anything else."""
    from moe_mobile import _native

    try:
        # Other characters may not be UTF-8, which C++ gets.
        return _native.percent_of(text.strip()) if text.isascii() else None
    except UsageError:
        return None


def share_text(capacity: int, experts: int) -> str:
    """The share that is so many of a layer's experts, as :func:`parse_capacity` reads it."""
    from moe_mobile import _native

    return _native.share_text(capacity, experts)
