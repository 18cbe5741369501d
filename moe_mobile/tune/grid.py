# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The routings that are tried by default."""

from __future__ import annotations

from collections.abc import Sequence

from moe_mobile.base.routings import split_routings
from moe_mobile.errors import UsageError

EXACT = "exact"

_LAMBDAS = ("0.05", "0.1", "0.15", "0.2", "0.3", "0.4", "0.6", "0.8")
_PROBABILITIES = ("0.5", "0.6", "0.7", "0.8", "0.9")
_WINDOWS = (1.5, 2, 3, 4)  # times top_k


def default_grid(experts: int, top_k: int) -> list[str]:
    """Every method at several strengths, for a model of so many experts per layer.

    Of a top-1 router there is exact routing alone: the best expert is always selected.
    """
    if top_k == 1:
        return [EXACT]
    guaranteed = (1,) if top_k == 2 else (1, 2)
    windows = dict.fromkeys(round(factor * top_k) for factor in _WINDOWS)
    return [
        EXACT,
        *(f"cache-prior:{value},J={j}" for j in guaranteed for value in _LAMBDAS),
        *(f"max-rank:{window}" for window in windows if top_k < window <= experts),
        *(f"cumulative:{p}" for p in _PROBABILITIES),
    ]


def grid(
    experts: int, top_k: int, routings: Sequence[str] = (), drop_cold: Sequence[str] = ()
) -> list[str]:
    """Exact routing first, then ``routings`` as the command line has them, or the default ones.

    ``drop_cold``: values of F, with each of which every routing comes a second time.

    Raises UsageError as :func:`split_routings`, and for a routing that drops already.
    """
    named = split_routings(routings) if routings else default_grid(experts, top_k)
    dropping = [text for text in named if "+" in text]
    if drop_cold and dropping:
        raise UsageError(
            f"{dropping[0]} says already what it drops",
            setting="drop_cold",
            remedy="Write either of them",
        )
    found = dict.fromkeys([EXACT, *named])
    for value in drop_cold:
        found |= dict.fromkeys(f"{text}+drop-cold:{value.strip()}" for text in [EXACT, *named])
    return list(found)
