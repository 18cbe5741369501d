# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A row in its place: its configuration's name and colour, and numbers derived from its tokens."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

from moe_mobile.bench.row import Row, finite, parts_of
from moe_mobile.report.settings import Configuration


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A row, with what to call it and how to colour it. `label` tells repeated rows apart."""

    row: Row
    configuration: Configuration
    label: str
    several_tests: bool

    @property
    def colour(self) -> str:
        """The name of the configuration's colour, for a figure."""
        return f"@c{self.configuration.colour}"

    @property
    def label_with_test(self) -> str:
        """The label, and the test if the rows have several."""
        return f"{self.label} · {self.row.test_name}" if self.several_tests else self.label

    @functools.cached_property
    def parts(self) -> dict[str, float]:
        """Milliseconds per token of each part and of the `rest`; empty if none is recorded.

        Of decoded tokens, of the prompt's if nothing was decoded.
        """
        phase = "decode" if "decode" in self.row.phases else "prefill"
        tokens = [t for entries in self.row.repetitions for t in entries if t.get("phase") == phase]
        count = sum(max(finite(token.get("count")) or 1, 1) for token in tokens)
        parts = {name: value / max(count, 1) for name, value in parts_of(tokens).items()}
        return parts if 0 < sum(parts.values()) < math.inf else {}


def make_entries(found: Sequence[Configuration]) -> list[Entry]:
    """The rows of all configurations, one configuration after the other."""
    several = len({row.test_name for configuration in found for row in configuration.rows}) > 1
    entries = []
    for configuration in found:
        for row in configuration.rows:
            same = [other for other in configuration.rows if other.test_name == row.test_name]
            again = f" · run {same.index(row) + 1}" if len(same) > 1 else ""
            entries.append(Entry(row, configuration, configuration.label + again, several))
    return entries
