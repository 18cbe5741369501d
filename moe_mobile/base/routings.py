# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Routings as they are written: several in one text, and whether a routing is lossy."""

from __future__ import annotations

import re
from collections.abc import Iterable

from moe_mobile.errors import UsageError

# A comma between two routings; other commas belong to the routing before them, as in ",J=2".
_BETWEEN = re.compile(r",(?!\s*[A-Za-z]+\s*=)")


def split_routings(texts: Iterable[str]) -> list[str]:
    """``exact,cache-prior:0.2,J=2`` are two routings; each is listed once.

    What is written after a comma and has a ``=`` is an option of the routing before it. Whether
    the routings make sense is not checked.

    Raises UsageError if there is nothing between two commas, and if nothing was given.
    """
    routings: dict[str, None] = {}
    for text in texts:
        for part in _BETWEEN.split(text):
            if not part.strip():
                raise UsageError(
                    f"a routing is missing in {text!r}",
                    setting="routing",
                    remedy="Write them like exact,cache-prior:0.2,J=2",
                )
            routings[part.strip()] = None
    if not routings:
        raise UsageError("there is no routing", setting="routing", remedy="Give at least one")
    return list(routings)


def split_precisions(texts: Iterable[str]) -> list[str]:
    """``full,ranks:1`` are two; each is listed once. What they mean is not checked."""
    return list(dict.fromkeys(part.strip() for text in texts for part in text.split(",")))


def lossy_mark(resolved: str, precision: str) -> str:
    """What a reader has to know about an engine whose output may differ from the model's."""
    causes = lossy_causes(resolved, precision)
    verb = "changes" if len(causes) == 1 else "change"
    return f"lossy: {' and '.join(causes)} {verb} what the model computes"


def lossy_causes(resolved: str, precision: str) -> list[str]:
    """What makes an engine lossy: its routing, the precision of its experts, both or nothing."""
    causes = [f"routing {resolved}"] * is_lossy(resolved)
    return causes + [f"precision {precision}"] * (precision != "full")


def is_lossy(resolved: str) -> bool:
    """Whether a routing, as resolved, may change what the model computes."""
    return re.fullmatch(r"exact(,[^+]*)?", resolved) is None


def labelled(routing: str, precision: str) -> str:
    """A routing, with the precision of the experts unless that is full."""
    return routing if precision == "full" else f"{routing}, precision {precision}"


def marked(routing: str, precision: str) -> str:
    """The same, marked if one of them changes what the model computes."""
    return labelled(routing, precision) + " (lossy)" * bool(lossy_causes(routing, precision))
