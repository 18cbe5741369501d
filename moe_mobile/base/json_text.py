# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""JSON text, as all that the package writes and prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def json_text(
    value: object,
    *,
    indent: int | None = None,
    compact: bool = False,
    sort_keys: bool = False,
    ascii: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """``value`` as JSON; ``compact``: without spaces, ``ascii``: with escapes for all other
    characters, the rest as ``json.dumps``.

    Raises ValueError for NaN and infinity, which are not JSON: other readers, and ours, refuse
    them. Who writes a number that may be infinite writes null for it.
    """
    return json.dumps(
        value,
        allow_nan=False,
        indent=indent,
        separators=(",", ":") if compact else None,
        sort_keys=sort_keys,
        ensure_ascii=ascii,
        default=default,
    )
