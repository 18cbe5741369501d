# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A row of results as a report sees it: what is missing or of another type is None, never an error.

Rows come from other versions, other machines and other people. `docs/results-schema.md` says what
each member means.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from moe_mobile.base.json_field import Json
from moe_mobile.base.statistics import LARGEST
from moe_mobile.bench.results import BenchTest

__all__ = ["Row", "finite", "items", "pick"]


def finite(value: Any) -> float | None:
    """A number, or None for anything else: true and false, texts, numbers that are too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # false for NaN


def pick(value: Any, *path: str) -> Any:
    """The member at `path`, or None if something on the way is missing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def items(value: Any) -> list[Json]:
    """The objects in a list; empty if it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One row: its JSON, the file it came from, and its place in the report."""

    data: Json
    source: str
    index: int

    def get(self, *path: str) -> Any:
        """The member at `path`, whatever it is."""
        return pick(self.data, *path)

    def number(self, *path: str) -> float | None:
        """The number at `path`."""
        return finite(self.get(*path))

    def text(self, *path: str) -> str | None:
        """The text at `path`; None for an empty one too."""
        value = self.get(*path)
        return value if isinstance(value, str) and value else None

    def count(self, *path: str) -> int:
        """The number at `path` as a count, 0 if there is none."""
        return int(self.number(*path) or 0)

    @property
    def test(self) -> str:
        """llama-bench's name of the test: `pp512`, `tg128`, `pp512+tg128`."""
        test = BenchTest(self.count("n_prompt"), self.count("n_gen"))
        depth = self.count("n_depth")
        return (test.name or "no test") + (f" @ d{depth}" if depth else "")

    @property
    def phases(self) -> list[str]:
        """What was measured: "prefill", "decode" or both."""
        return [phase for phase, (member, _) in _PHASES.items() if self.count(member)]

    def speed(self, phase: str) -> float | None:
        """Tokens per second of a phase, the mean over the repetitions."""
        return self.number(_PHASES[phase][1]) or (
            self.number("avg_ts") if self.phases == [phase] else None
        )

    def speeds(self, phase: str) -> list[float]:
        """Tokens per second of a phase in every repetition; empty if both were timed together."""
        if self.phases != [phase]:
            return []
        values = self.get("samples_ts")
        numbers = [finite(value) for value in values] if isinstance(values, list) else []
        return [number for number in numbers if number is not None and number > 0]

    @property
    def repetitions(self) -> list[list[Json]]:
        """The entries of every repetition's tokens, empty without `--tokens`."""
        tokens = self.get("tokens")
        return [items(entries) for entries in tokens] if isinstance(tokens, list) else []

    @property
    def latencies(self) -> list[list[float]]:
        """Milliseconds of each decoded token, a list per repetition."""
        lists = self.get("itl_ns")
        if not isinstance(lists, list):
            return []
        return [
            [number / 1e6 for value in one if (number := finite(value)) is not None]
            for one in lists
            if isinstance(one, list)
        ]

    @property
    def runs(self) -> list[Json]:
        """What was recorded about each repetition, empty in rows of older versions."""
        return items(self.get("runs"))


_PHASES = {"prefill": ("n_prompt", "prompt_ts"), "decode": ("n_gen", "gen_ts")}
