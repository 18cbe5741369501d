# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the rows say of each test: which settings are fastest, at what loss, and which rows are
flagged, so that it may be otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from moe_mobile.base.text import digits, percent
from moe_mobile.bench.regime import incomparable
from moe_mobile.report.compare import compare_pair
from moe_mobile.report.entry import Entry
from moe_mobile.report.settings import label, varying

_CONDITIONS = ("lossy: ", "router logits replayed ", "virtual phone", "limit: ")
"""How flags begin that say what was measured, and not that something went wrong meanwhile."""

_MOST_FLAGS = 2
"""Of a row, in a sentence."""


@dataclasses.dataclass(frozen=True)
class Sentence:
    """``before`` names the test, ``settings`` the fastest, ``after`` says how fast it is."""

    before: str
    settings: str
    after: str

    @property
    def text(self) -> str:
        """All of it."""
        return f"{self.before} {self.settings}{self.after}"


def conclusions(entries: Sequence[Entry]) -> list[Sentence]:
    """A sentence for each test, those that decode first."""
    tests: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.row.number("avg_ts") is not None:
            tests.setdefault(entry.row.test_name, []).append(entry)
    ordered = sorted(tests.items(), key=lambda test: "decode" not in test[1][0].row.phases)
    return [_sentence(name, group) for name, group in ordered]


def _sentence(test: str, group: Sequence[Entry]) -> Sentence:
    ranked = sorted(group, key=_speed, reverse=True)
    best = ranked[0]
    fast = f"{digits(_speed(best))} tokens/s"
    others = [one for one in ranked[1:] if one.configuration is not best.configuration]
    alike = [one for one in others if not incomparable(one.row.data, best.row.data)]
    if not alike:
        after = f" runs at {fast}{_loss(best)}."
        after += " No other row was measured in the same way." if others else ""
        return Sentence(f"{test}:", best.label, after + _flagged([best], []))
    after = f" is fastest with {fast}{_loss(best)}, {_against(best, alike[0])}."
    exact = next((one for one in alike if not _lossy(one)), None)
    named = [best, alike[0]]
    if _lossy(best) and exact is not None:
        after += f" The fastest that is not lossy: {exact.label}, {digits(_speed(exact))} tokens/s."
        named += [exact] * (exact is not alike[0])
    others = [one for one in alike if one not in named]
    return Sentence(f"{test}:", best.label, after + _flagged(named, others))


def _speed(entry: Entry) -> float:
    return entry.row.number("avg_ts") or 0.0


def _lossy(entry: Entry) -> bool:
    return entry.row.get("routing", "lossy") is True


def _loss(entry: Entry) -> str:
    if not _lossy(entry):
        return ""
    changed = entry.row.number("changed_share")
    share = "" if not changed else f" {percent(changed)} of the experts it chooses are others,"
    return f" (lossy:{share} `moe-mobile quality` measures what that costs)"


def _flagged(named: Sequence[Entry], others: Sequence[Entry]) -> str:
    """What went wrong while rows were measured: those that the sentence names, and how many of
    those that it compared them with."""
    said = [f"{one.label} ({_shown(found)})" for one in named if (found := _flags(one))]
    count = sum(bool(_flags(one)) for one in others)
    if count:
        said.append(f"{count} slower {'row' if count == 1 else 'rows'}")
    return f" It may be otherwise, for these were flagged: {'; '.join(said)}." if said else ""


def _flags(entry: Entry) -> list[str]:
    """Without what they advise, which the table has."""
    found = dict.fromkeys(map(str, entry.row.items("flags")))
    return [flag.split(": ")[0] for flag in found if not flag.startswith(_CONDITIONS)]


def _shown(flags: Sequence[str]) -> str:
    more = len(flags) - _MOST_FLAGS
    return ", ".join(flags[:_MOST_FLAGS]) + (f", and {more} more" if more > 0 else "")


def _against(best: Entry, following: Entry) -> str:
    """How much faster than the next of those that were measured in the same way."""
    both = [one.configuration.settings for one in (best, following)]
    names = varying(both)  # what both have is in the name of the best
    called = label(both[1], names) if names else following.label
    name = f"{called} ({digits(_speed(following))})"
    if not best.row.speeds or not following.row.speeds:
        return f"before {name}"
    ratio = compare_pair(following.row, best.row)
    if ratio.low is None or ratio.high is None:
        return f"{digits(ratio.value, 3)} times {name}, from {ratio.note}"
    interval = f"95 % interval {digits(ratio.low, 3)} to {digits(ratio.high, 3)}"
    if ratio.low <= 1:
        return f"but no difference from {name} is shown ({interval} times)"
    return f"{digits(ratio.value, 3)} times {name}, {interval}"
