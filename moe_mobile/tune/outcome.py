# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a search found: every row judged, a choice for each size of the cache, and what to doubt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_mobile.quality.score import ScoredModel, finite
from moe_mobile.routing.capacity import share_text
from moe_mobile.tune.choice import Candidate, Limit, choose, warnings
from moe_mobile.tune.settings_file import Choice, ChosenSettings, Measured, SettingsFile


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        model: that was scored.
        limit: of quality.
        text_sha256: of the token ids that were scored.
        found: all rows, capacity by capacity, judged.
    """

    model: ScoredModel
    limit: Limit
    text_sha256: str
    found: tuple[Candidate, ...]

    @property
    def capacities(self) -> list[int]:
        return list(dict.fromkeys(one.row.capacity for one in self.found))

    def of(self, capacity: int) -> list[Candidate]:
        """The rows of a capacity."""
        return [one for one in self.found if one.row.capacity == capacity]

    @property
    def chosen(self) -> list[Candidate]:
        """The choice for each capacity, the one that loads least first."""
        best = [choose(self.of(capacity)) for capacity in self.capacities]
        return sorted(best, key=lambda one: one.loads)

    @property
    def warnings(self) -> list[str]:
        """What to know before one believes the choices; of several capacities, which is meant."""
        several = len(self.capacities) > 1
        return [
            f"cache of {self.share(capacity)}: {text}" if several else text
            for capacity in self.capacities
            for text in warnings(self.of(capacity), self.limit)
        ]

    @property
    def notes(self) -> list[str]:
        """Why a method is off."""
        rows = (one.row for one in self.found)
        return list(dict.fromkeys(f"{row.requested}: {row.note}" for row in rows if row.note))

    def share(self, capacity: int) -> str:
        """Of the experts, as ``--cache`` has it."""
        return share_text(capacity, self.model.experts)

    def settings_file(self) -> SettingsFile:
        """For a bundle, which the model must be of."""
        choices = tuple(Choice(engine_settings(one), _measured(self, one)) for one in self.chosen)
        return SettingsFile(self.model.name, self.model.source_id, self.limit.text, choices)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready object."""
        model, chosen = self.model, self.chosen
        return {
            "model": model.name,
            "source": model.source,
            "source_id": model.source_id,
            "precision": model.precision,
            "context": model.context,
            "moe_layers": len(model.layers),
            "experts": model.experts,
            "top_k": model.top_k,
            "limit": self.limit.text,
            "text_sha256": self.text_sha256,
            "rows": [_facts(one, one in chosen) for one in self.found],
            "warnings": self.warnings,
            "notes": self.notes,
        }


def text_hash(token_ids: Sequence[int]) -> str:
    """Identifies a text in settings files."""
    return hashlib.sha256(np.array(token_ids, "<u4").tobytes()).hexdigest()


def engine_settings(candidate: Candidate) -> ChosenSettings:
    """The settings with which the engine does the same."""
    row = candidate.row
    return ChosenSettings(
        cache=share_text(row.capacity, row.experts),
        routing=row.routing,
        pool=row.pool,
        eviction=row.eviction,
        precision=row.expert_precision,
        initial_cache="prompt" if row.lossy else "warm",
    )


def _measured(outcome: Outcome, one: Candidate) -> Measured:
    row, exact = one.row, one.exact
    speeds = {other.row: other.speed for other in outcome.of(row.capacity)}
    return Measured(
        tokens=row.tokens,
        text_sha256=outcome.text_sha256,
        perplexity=row.perplexity,
        exact_perplexity=exact.perplexity,
        perplexity_change=one.change,
        change_error=one.error,
        loads_per_token_layer=one.loads,
        exact_loads_per_token_layer=exact.loads_per_token_layer,
        changed_share=row.changed_share,
        dropped_share=row.dropped_share,
        tokens_per_second=one.speed,
        exact_tokens_per_second=speeds[exact],
    )


def _facts(one: Candidate, chosen: bool) -> dict[str, Any]:
    row = {name: value for name, value in one.row.as_dict().items() if name != "blocks"}
    return {
        **row,
        "capacity_share": one.row.capacity / one.row.experts,
        "change": finite(one.change),
        "change_error": finite(one.error),
        "verdict": one.verdict,
        "front": one.on_front,
        "chosen": chosen,
        "tokens_per_second": one.speed,
        "samples_ts": list(one.speeds),
    }
