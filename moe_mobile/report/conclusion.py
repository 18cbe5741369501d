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

_NO_DIFFERENCE = "no difference"


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
    """A sentence for each test, those that decode first. Of rows that have a speed."""
    tests: dict[str, list[Entry]] = {}
    for entry in entries:
        if _speed(entry) > 0:
            tests.setdefault(entry.row.test_name, []).append(entry)
    ordered = sorted(tests.items(), key=lambda test: "decode" not in test[1][0].row.phases)
    return [_sentence(name, group) for name, group in ordered]


def _sentence(test: str, group: Sequence[Entry]) -> Sentence:
    best, *slower = sorted(group, key=_speed, reverse=True)
    alike = [one for one in slower if not incomparable(one.row.data, best.row.data)]
    runs = [
        one
        for one in group
        if one is best or (one.configuration is best.configuration and one in alike)
    ]
    others = [one for one in alike if one not in runs]
    if not others:
        alone = " No other row was measured in the same way." if len(runs) < len(group) else ""
        if len(runs) == 1:
            after = f" runs at {_fast(best)}{_loss(best)}.{alone}"
            return Sentence(f"{test}:", best.label, after + _flagged(runs, []))
        after = f" runs at {_range(runs)}{_loss(best)} in {len(runs)} runs.{_change(runs)}{alone}"
        flagged = _flagged([runs[0], runs[-1]], runs[1:-1])
        return Sentence(f"{test}:", best.configuration.label, after + flagged)
    after = f" {_lead(best, others[0])}."
    if len(runs) > 1:
        after += f" Its {len(runs)} runs had {_range(runs)}."
    exact = next((one for one in others if not _lossy(one)), None)
    named = [best, others[0]]
    if _lossy(best) and exact is not None:
        after += f" The fastest that is not lossy: {exact.label}, {_fast(exact)}."
        named += [exact] * (exact is not others[0])
    rest = [one for one in (*runs, *others) if one not in named]
    return Sentence(f"{test}:", best.label, after + _flagged(named, rest))


def _speed(entry: Entry) -> float:
    return entry.row.number("avg_ts") or 0.0


def _fast(entry: Entry) -> str:
    return f"{digits(_speed(entry))} tokens/s"


def _range(runs: Sequence[Entry]) -> str:
    """The speeds of rows of one configuration."""
    ends = [digits(choose(map(_speed, runs))) for choose in (min, max)]
    return f"{' to '.join(dict.fromkeys(ends))} tokens/s"


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
        said.append(f"{count} other {'row' if count == 1 else 'rows'}")
    return f" It may be otherwise, for these were flagged: {'; '.join(said)}." if said else ""


def _flags(entry: Entry) -> list[str]:
    """Without what they advise, which the table has."""
    found = dict.fromkeys(map(str, entry.row.items("flags")))
    return [flag.split(": ")[0] for flag in found if not flag.startswith(_CONDITIONS)]


def _shown(flags: Sequence[str]) -> str:
    more = len(flags) - _MOST_FLAGS
    return ", ".join(flags[:_MOST_FLAGS]) + (f", and {more} more" if more > 0 else "")


def _lead(best: Entry, following: Entry) -> str:
    """How fast it is, and by how much faster than the next that was measured in the same way."""
    both = [one.configuration.settings for one in (best, following)]
    names = varying(both)  # what both have is in the name of the best
    called = label(both[1], names) if names else following.label
    speed, next_speed = (digits(_speed(one)) for one in (best, following))
    if speed == next_speed:
        return f"runs at {_fast(best)}{_loss(best)}, as fast as {called}"
    name = f"{called} ({next_speed})"
    found = _against(following, best, name) or f"before {name}"
    if found.startswith(_NO_DIFFERENCE):
        found = f"but {found}"
    return f"is fastest with {_fast(best)}{_loss(best)}, {found}"


def _change(runs: Sequence[Entry]) -> str:
    """The last of a configuration's runs against the first; empty if they cannot be compared."""
    first, last = (
        f"{one.label.removeprefix(f'{one.configuration.label} · ')} ({digits(_speed(one))})"
        for one in (runs[0], runs[-1])
    )
    found = _against(runs[0], runs[-1], first)
    return found and f" {last.capitalize()}: {found}."


def _against(base: Entry, other: Entry, name: str) -> str:
    """How much faster than the base, called ``name``; empty if one has no repetitions."""
    if not base.row.speeds or not other.row.speeds:
        return ""
    ratio = compare_pair(base.row, other.row)
    times = f"{digits(ratio.value, 3)} times {name}"
    if ratio.low is None or ratio.high is None:
        return f"{times}, from {ratio.note}"
    interval = f"95 % interval {digits(ratio.low, 3)} to {digits(ratio.high, 3)}"
    if ratio.low <= 1 <= ratio.high:
        return f"{_NO_DIFFERENCE} from {name} is shown ({interval} times)"
    return f"{times}, {interval}"
