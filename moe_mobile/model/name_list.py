# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Many names of tensors in a message: all of them, or what they begin with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

_MOST = 20


def listed(names: Collection[str]) -> str:
    """The names, or where they are many, their common beginnings with how many begin so."""
    if len(names) <= _MOST:
        return ", ".join(names)
    parts = [name.split(".") for name in names]
    deepest = max(map(len, parts))
    # The longest beginnings of which there are few enough.
    for depth in range(deepest, 0, -1):
        groups = Counter(".".join(one[:depth]) + ".*" * (len(one) > depth) for one in parts)
        if len(groups) <= _MOST:
            break
    shown = [f"{name} ({count})" if count > 1 else name for name, count in groups.items()]
    more = len(shown) - _MOST
    return ", ".join(shown[:_MOST]) + (f", and {more} others" if more > 0 else "")
