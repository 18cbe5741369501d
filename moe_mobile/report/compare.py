# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Ratios between rows that differ in one setting, and why others are not compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from moe_mobile.base.statistics import Ratio, paired_ratio, welch_ratio
from moe_mobile.bench.regime import incomparable
from moe_mobile.bench.row import Row
from moe_mobile.report.settings import NOT_RECORDED, settings

REPEATED = "repeated"
"""Stands for a setting if rows differ in nothing but their time."""

METHOD = (
    "Ratio of the geometric means of tokens/s over the repetitions, with a 95 % interval by "
    "Welch's t on logarithms; rows that one command measured in turns (interleaved) are "
    "compared pair by pair, which cancels what drifts. An interval that holds 1 shows no "
    "difference. It covers the spread within a run, not that from one run or device to another."
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Pair:
    """`other` against `base`: they differ in `setting` alone."""

    setting: str
    base: Row
    other: Row

    def values(self) -> tuple[str, str]:
        """What the setting is in both rows."""
        return _value(self.base, self.setting), _value(self.other, self.setting)

    def as_dict(self) -> dict[str, str]:
        """What it is that is compared, JSON-ready."""
        before, after = self.values()
        test = self.base.test_name
        return {"setting": self.setting, "test": test, "from": before, "to": after}


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison(_Pair):
    """A pair with the ratio of its speeds."""

    ratio: Ratio


@dataclasses.dataclass(frozen=True, eq=False)
class Refusal(_Pair):
    """A pair that would be compared, were both rows measured in the same way."""

    reasons: list[str]


def compare(rows: Sequence[Row]) -> tuple[list[Comparison], list[Refusal]]:
    """Within each group of rows that differ in one setting, each against the first of its regime.

    One base for a group keeps the number of ratios near that of the rows.
    """
    found: list[Comparison] = []
    refused: list[Refusal] = []
    for setting, group in _groups(rows):
        bases: list[Row] = []
        for row in group:
            why: list[str] = []
            for base in bases:
                reasons = incomparable(base.data, row.data)
                if not reasons:
                    # Rows of the base's own value are repetitions, and compared as such.
                    if setting == REPEATED or _value(base, setting) != _value(row, setting):
                        found += _comparison(setting, base, row)
                    break
                why = why or reasons
            else:
                first = bases[0] if bases else row
                bases.append(row)
                if why and (setting == REPEATED or _value(first, setting) != _value(row, setting)):
                    refused.append(Refusal(setting, first, row, why))
    return found, refused


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of one test with several values of the named setting; all other settings agree."""
    chosen = {row: settings(row) for row in rows}
    names = dict.fromkeys(name for values in chosen.values() for name in values)
    groups: list[tuple[str, list[Row]]] = []
    for setting in (*names, REPEATED):
        alike: dict[tuple[str, tuple[tuple[str, str], ...]], list[Row]] = {}
        for row, values in chosen.items():
            rest = tuple(pair for pair in values.items() if pair[0] != setting)
            alike.setdefault((row.test_name, rest), []).append(row)
        for group in alike.values():
            several = setting == REPEATED or len({_value(row, setting) for row in group}) > 1
            if len(group) > 1 and several:
                groups.append((setting, group))
    return groups


def _comparison(setting: str, base: Row, other: Row) -> list[Comparison]:
    """Empty if a row has no speeds."""
    if not base.speeds or not other.speeds:
        return []
    return [Comparison(setting, base, other, compare_pair(base, other))]


def compare_pair(base: Row, other: Row) -> Ratio:
    """How much faster ``other`` is. Both have speeds, and were measured in the same way."""
    method = paired_ratio if _paired(base, other) else welch_ratio
    return method(base.speeds, other.speeds)


def _paired(base: Row, other: Row) -> bool:
    """Whether repetition i of one row was measured together with repetition i of the other.

    Another session drifts in its own way: its repetitions are not pairs, and their interval would
    be too narrow. Rows of versions that name no session are not paired.
    """
    if not all(row.get("regime", "order") == "interleaved" for row in (base, other)):
        return False
    sessions = [[run.get("session") for run in row.records] for row in (base, other)]
    counts = {
        len(values)
        for row in (base, other)
        for values in (row.records, row.items("samples_ts"), row.speeds)
    }
    known = all(isinstance(session, str) and session for session in sessions[0])
    return known and sessions[0] == sessions[1] and len(counts) == 1


def _value(row: Row, setting: str) -> str:
    if setting == REPEATED:
        return row.text("test_time") or NOT_RECORDED
    return settings(row).get(setting, NOT_RECORDED)
