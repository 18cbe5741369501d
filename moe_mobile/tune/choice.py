# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which routing a limit of quality allows: the front of loads and perplexity, and a choice of it.

A text is a sample, so its perplexity has an error. What is accepted must be within the limit with
all of the 95 % interval of its change (:meth:`Quality.change_error`): a short text allows less,
not more. Exact routing is always accepted; it changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from moe_mobile.base.statistics import paired_ratio
from moe_mobile.base.text import change_text, rounded_up
from moe_mobile.errors import UsageError
from moe_mobile.quality.score import Cache, Quality, exact_of

Verdict = str
"""``exact``; ``within`` the limit; ``unsure``: the interval holds the limit, or there is none;
``over`` the limit."""


@dataclass(frozen=True)
class Limit:
    """How much a perplexity may be: ``share`` above exact routing's, or ``perplexity`` itself."""

    text: str
    share: float | None = None
    perplexity: float = 0.0

    @property
    def words(self) -> str:
        """For a sentence."""
        return self.text if self.share is not None else f"a perplexity of {self.text}"

    def change(self, exact: Quality) -> float:
        """By what share exact routing's perplexity may grow. Raises UsageError if it is too high
        already."""
        if self.share is not None:
            return self.share
        allowed = self.perplexity / exact.perplexity - 1
        if allowed < 0:
            raise UsageError(
                f"exact routing has a perplexity of {rounded_up(exact.perplexity, 4)} on this text "
                "already",
                setting="limit",
                remedy="Give a higher limit, or a relative one such as +1%",
            )
        return allowed


def parse_limit(text: str) -> Limit:
    """``+1%`` (or ``1%``): above exact routing's; ``12.3``: a perplexity. Raises UsageError."""
    match = re.fullmatch(r"(\+?)([0-9]{1,6}(?:\.[0-9]{1,9})?)\s*(%?)", text.strip(), re.ASCII)
    if match is not None and match[3]:
        return Limit(text.strip(), share=float(Fraction(match[2]) / 100))
    if match is not None and not match[1] and float(match[2]) >= 1:
        return Limit(text.strip(), perplexity=float(match[2]))
    raise UsageError(
        f"{text!r} is not a limit of quality",
        setting="limit",
        remedy="Write +1% for a perplexity at most so much above exact routing's, or 12.3 for one "
        "of at most that",
    )


@dataclass(frozen=True)
class Candidate:
    """A row, judged.

    Attributes:
        exact: exact routing in full precision, with a cache of the same size.
        change: of the perplexity against it; infinite if it is too large for a float.
        error: half of its 95 % interval; None if the text is too short to tell.
        verdict: see :data:`Verdict`.
        loads: per token and layer, counted as experts of full precision: by the bytes that are
            read.
        on_front: no other row of this size of the cache is better in one of loads and change, and
            as good in the other.
        speeds: tokens per second of repetitions that were measured in turns with those of others.
    """

    row: Quality
    exact: Quality
    change: float
    error: float | None
    verdict: Verdict
    loads: float
    on_front: bool = False
    speeds: tuple[float, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.verdict in ("exact", "within")

    @property
    def speed(self) -> float | None:
        return math.fsum(self.speeds) / len(self.speeds) if self.speeds else None

    @property
    def cache(self) -> Cache:
        """What the row was measured with."""
        row = self.row
        return Cache(row.requested, row.capacity, row.pool, row.eviction, row.expert_precision)


def candidates(rows: Sequence[Quality], limit: Limit) -> list[Candidate]:
    """All rows, judged; each capacity has one of exact routing. Raises as :meth:`Limit.change`."""
    exact = exact_of(rows)
    judged = [_judge(row, exact[row.capacity], limit) for row in rows]
    found: list[Candidate] = []
    for capacity in exact:
        group = [one for one in judged if one.row.capacity == capacity]
        marks = front([(one.loads, one.change) for one in group])
        pairs = zip(group, marks, strict=True)
        found += [dataclasses.replace(one, on_front=mark) for one, mark in pairs]
    return found


def _judge(row: Quality, exact: Quality, limit: Limit) -> Candidate:
    allowed = limit.change(exact)
    if len(row.blocks) != len(exact.blocks):
        raise UsageError(
            f"the row of {row.label} is of another text than that of exact routing",
            setting="rows",
            remedy="Name another file, and score all of it again",
        )
    loads = row.loads_per_token_layer
    if exact.bytes_read and row.expert_precision != exact.expert_precision:
        # Loads of full precision that read as many bytes.
        loads = exact.loads_per_token_layer * row.bytes_read / exact.bytes_read
    if not row.lossy:
        return Candidate(row, exact, 0.0, 0.0, "exact", loads)
    change, error = row.change_from(exact), row.change_error(exact)
    if not change <= allowed:
        verdict = "over"
    else:
        verdict = "within" if error is not None and change + error <= allowed else "unsure"
    return Candidate(row, exact, change, error, verdict, loads)


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other one dominates: is at most as large in both, and smaller in one."""
    marks = [False] * len(points)
    least = math.inf
    order = sorted(range(len(points)), key=lambda index: points[index])
    for place, index in enumerate(order):
        x, y = points[index]
        if y < least:
            least = y
            marks[index] = True
        elif place and points[order[place - 1]] == (x, y):
            marks[index] = marks[order[place - 1]]
    return marks


def with_speeds(
    found: Sequence[Candidate], speeds: Mapping[Cache, Sequence[float]]
) -> list[Candidate]:
    """The same with what was measured of some of them."""
    return [dataclasses.replace(one, speeds=tuple(speeds.get(one.cache, ()))) for one in found]


def choose(found: Iterable[Candidate]) -> Candidate:
    """The accepted one that loads least; of those with speeds, if there are any, the fastest.

    One with speeds is replaced by another only if that is shown to be faster: if the 95 %
    interval of their repetitions' ratio is above 1. So noise does not decide.
    """
    accepted = sorted((one for one in found if one.accepted), key=lambda c: (c.loads, c.change))
    measured = [one for one in accepted if one.speeds]
    best, *others = measured or accepted
    for other in others if measured else ():
        if paired_ratio(best.speeds, other.speeds).verdict == "faster":
            best = other
    return best


def warnings(found: Sequence[Candidate], limit: Limit) -> list[str]:
    """What to know before one believes the choice among candidates of one capacity."""
    chosen = choose(found)
    lossy = [one for one in found if one.row.lossy]
    texts = []
    if lossy and not chosen.row.lossy:
        texts.append(
            f"only exact routing is surely within {limit.words}: nothing is saved by this choice"
        )
    unsure = [one for one in lossy if one.verdict == "unsure" and one.loads < chosen.loads]
    if unsure:
        texts.append(_undecided(unsure, limit))
    return texts


def _undecided(unsure: Sequence[Candidate], limit: Limit) -> str:
    """A note on candidates that load less, if the text is too short to accept them."""
    needed = {one: tokens for one in unsure if (tokens := _tokens_needed(one, limit)) is not None}
    best = min(needed, key=needed.__getitem__) if needed else min(unsure, key=lambda c: c.loads)
    text = (
        f"{best.row.tokens} tokens are too few to tell whether {len(unsure)} more "
        f"{'is' if len(unsure) == 1 else 'are'} within {limit.words}, such as {best.row.label} "
        f"({change_text(best.change, best.error)})"
    )
    return text + (f": about {needed[best]} would tell" if needed else "")


def _tokens_needed(one: Candidate, limit: Limit) -> int | None:
    """Tokens at which its interval would be below the limit, if its change stayed what it is."""
    room = limit.change(one.exact) - one.change
    if one.error is None or room <= 0:
        return None
    return math.ceil(one.row.tokens * (one.error / room) ** 2 / 1000) * 1000
