# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a routing costs: stepwise perplexity of a text, with the live cache.

A text is scored as decoding token by token would: every sequence begins with an empty cache, every
token is decoded, and each routing decision sees the cache that the tokens before it left. Sources
say where a model runs: :class:`moe_mobile.quality.engine.EngineSource` has a bundle in the engine,
:class:`moe_mobile.quality.transformers_source.TransformersSource` a checkpoint in transformers.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.progress import Progress, part_of, silent
from moe_mobile.base.routings import labelled, marked
from moe_mobile.errors import UsageError
from moe_mobile.routing.arguments import InitialCache
from moe_mobile.routing.counts import Counts
from moe_mobile.routing.facts import MoeFacts
from moe_mobile.routing.run import RoutingRun
from moe_mobile.routing.trace import check_tokens, split


def finite(value: float | None) -> float | None:
    """None for infinities, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None


BLOCK = 64  # neighbouring tokens are similar: single ones would make errors seem too small
_FEWEST_BLOCKS = 10


@dataclass(frozen=True)
class Cache:
    """A routing and the cache it meets.

    Attributes:
        routing: as docs/routing/README.md writes it.
        capacity: experts per layer.
        pool: ``layer``: a cache of ``capacity`` for each; ``global``: one of capacity x layers.
        eviction: ``lru``, ``lfu`` or ``lfu:DECAY``.
        precision: of a bundle with several precisions of its experts: ``full``, ``low`` or
            ``ranks:N``. With the last, both precisions have memory for ``capacity`` experts, and
            the engine divides it by the number of ranks.
    """

    routing: str
    capacity: int
    pool: str = "layer"
    eviction: str = "lru"
    precision: str = "full"

    @property
    def is_mixed(self) -> bool:
        """Whether experts of two precisions are cached."""
        return self.precision not in ("full", "low")


@dataclass(frozen=True, kw_only=True)
class ScoredModel(MoeFacts):
    """What is scored.

    Attributes:
        source: ``engine`` or ``transformers``; ``source_id``: as in a trace.
        identity: differs if anything else differs that could change a score.
        vocab_size: number of tokens it knows; ``context``: positions of a sequence.
    """

    source: str
    source_id: str
    identity: str
    vocab_size: int
    context: int

    @property
    def precision(self) -> str:
        """What is computed with if nothing else is chosen: a bundle's quantization, or a type."""
        return self.quantization or self.precisions[0]


@dataclass(frozen=True, eq=False)
class SequenceScore:
    """A sequence, decoded. ``log_probabilities``: of every token but the first, in nats.

    Counts are over all tokens x layers x top_k slots, as in :class:`Quality`.
    """

    log_probabilities: NDArray[np.float64]
    hits: int
    misses: int
    dropped: int
    changed: int
    bytes_read: int = 0


@dataclass(frozen=True)
class Quality(Counts):
    """The score of a text under one routing with one cache.

    Attributes:
        predictions: tokens that others came before.
        blocks: negative log-likelihood in nats, summed over each 64 predictions of a sequence.
        expert_precision: the setting ``precision`` of the engine: ``full``, ``low``, ``ranks:N``.
        bytes_read: by the loads; 0 in transformers, which reads nothing.
    """

    expert_precision: str = "full"
    bytes_read: int = 0
    predictions: int = 0
    blocks: tuple[float, ...] = ()

    def plus(self, score: SequenceScore) -> Quality:
        """With one more sequence."""
        predictions = len(score.log_probabilities)
        starts = range(0, predictions, BLOCK)
        sums = -np.add.reduceat(score.log_probabilities, list(starts))
        return dataclasses.replace(
            self,
            tokens=self.tokens + predictions + 1,
            predictions=self.predictions + predictions,
            blocks=(*self.blocks, *sums.tolist()),
            hits=self.hits + score.hits,
            misses=self.misses + score.misses,
            dropped=self.dropped + score.dropped,
            changed=self.changed + score.changed,
            bytes_read=self.bytes_read + score.bytes_read,
        )

    @property
    def lossy(self) -> bool:
        """Whether routing or precision may change what the model computes."""
        return super().lossy or self.expert_precision != "full"

    @property
    def label(self) -> str:
        """What was scored, in few words."""
        return labelled(self.routing, self.expert_precision)

    @property
    def marked(self) -> str:
        """The same, marked if it may change what the model computes."""
        return marked(self.routing, self.expert_precision)

    @property
    def nll(self) -> float:
        """Negative log-likelihood in nats, summed over the predictions."""
        return math.fsum(self.blocks)

    @property
    def perplexity(self) -> float:
        """Infinite if it is too large for a float."""
        try:
            return math.exp(self.nll / self.predictions)
        except OverflowError:
            return math.inf

    def change_from(self, exact: Quality) -> float:
        """How much larger the perplexity is than another of the same text: 0.01 is 1 %. Infinite
        if that is too large for a float."""
        try:
            return math.expm1((self.nll - exact.nll) / self.predictions)
        except OverflowError:
            return math.inf

    def change_error(self, exact: Quality) -> float | None:
        """Half of the 95 % interval of :meth:`change_from`, were the text one of many like it.

        Both see the same tokens, so their differences count, block by block; None if there are too
        few blocks.
        """
        differences = np.subtract(self.blocks, exact.blocks)
        if len(differences) < _FEWEST_BLOCKS:
            return None
        error = float(differences.std(ddof=1)) * math.sqrt(len(differences)) / self.predictions
        return 1.96 * error * (1 + self.change_from(exact)) if error else 0.0

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready object, derived figures included."""
        return {
            **dataclasses.asdict(self),
            "blocks": list(self.blocks),
            "nll": self.nll,
            "lossy": self.lossy,
            "loads": self.loads,
            "perplexity": finite(self.perplexity),
            "hit_rate": self.hit_rate,
            "loads_per_token_layer": self.loads_per_token_layer,
            "changed_share": self.changed_share,
            "dropped_share": self.dropped_share,
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Quality:
        """What :meth:`as_dict` gave. ``quality_file`` checks rows of files."""
        values = {field.name: row[field.name] for field in dataclasses.fields(cls)}
        return cls(**values | {"blocks": tuple(map(float, row["blocks"]))})


def exact_of(rows: Iterable[Quality]) -> dict[int, Quality]:
    """The rows that others are compared with, by their capacity: exact routing, full precision."""
    return {row.capacity: row for row in rows if row.requested == "exact" and not row.lossy}


class Scorer(abc.ABC):
    """An open source: scores under one routing after another.

    ``place``: the device's serial, for engines.
    """

    model: ScoredModel
    place: str | None = None

    def begin(self, cache: Cache) -> tuple[Quality, AbstractContextManager[ScoreSequence]]:
        """A row to fill, and what scores sequences for it while it is entered.

        Raises UsageError or BudgetError if routing and cache make no sense for the model.
        """
        run = open_run(self.model, cache)
        return empty_row(self.model, cache, run), self._scoring(cache, run)

    @abc.abstractmethod
    def _scoring(self, cache: Cache, run: RoutingRun) -> AbstractContextManager[ScoreSequence]:
        """See :meth:`begin`. ``run``: the cache's, for scorers without their own routing."""


class ScoreSequence(Protocol):
    """Scores a sequence from an empty cache; ``progress`` counts its tokens."""

    def __call__(self, token_ids: Sequence[int], progress: Progress) -> SequenceScore: ...


class QualitySource(Protocol):
    """A model and where it runs: immutable, and cheap to send to another process."""

    def open(self, progress: Progress = silent) -> Scorer:
        """The source, ready to score. ``progress`` gets the stages of that."""
        ...

    def __hash__(self) -> int: ...


@functools.lru_cache(maxsize=1)
def opened(source: QualitySource) -> Scorer:
    """A source ready to score, kept for the next call of this process with an equal one."""
    return source.open()


def measure_quality(
    source: QualitySource | Scorer,
    token_ids: Sequence[int],
    cache: Cache,
    *,
    progress: Progress = silent,
) -> Quality:
    """Score a text under one routing and cache.

    Args:
        source: opened if it is not, and kept open for the next call of this process with an equal
            one, as workers of a process pool want it.
        token_ids: cut into sequences of the model's context. What is left may be a sequence of one
            token, which has nothing to be predicted: it is left out.

    Raises:
        UsageError: a wrong routing or cache, tokens the model does not have, fewer than two.
        BudgetError: a capacity below what one token uses of a layer.
        MoeMobileError: what opening and running the source raises.
    """
    scorer = source if isinstance(source, Scorer) else opened(source)
    sequences = sequences_of(token_ids, scorer.model)
    total = sum(map(len, sequences))
    row, scoring = scorer.begin(cache)
    with scoring as score:
        for sequence in sequences:
            end = row.tokens + len(sequence)
            row = row.plus(score(sequence, part_of(progress, "score", row.tokens, end, total)))
            progress("score", row.tokens, total)
    return row


def sequences_of(token_ids: Sequence[int], model: ScoredModel) -> list[list[int]]:
    """The text in sequences of the context, those of two tokens or more. Raises UsageError."""
    check_tokens(token_ids, model.vocab_size)
    sequences, begin = [], 0
    for length in split(len(token_ids), model.context):
        if length > 1:
            sequences.append(list(token_ids[begin : begin + length]))
        begin += length
    if model.context < 2:
        raise UsageError(
            "a sequence of one token has nothing to be predicted",
            setting="context",
            remedy="Give at least 2",
        )
    if not sequences:
        raise UsageError(
            "one token has nothing to be predicted from",
            setting="token_ids",
            remedy="Give a longer text",
        )
    return sequences


def open_run(model: MoeFacts, cache: Cache, *, initial_cache: InitialCache = "cold") -> RoutingRun:
    """The cache's routing. Raises UsageError and BudgetError if it makes no sense for the model, or
    if the model does not have the precision."""
    from moe_mobile import _native

    _native.check_precision(cache.precision, model.top_k, model.precisions)
    return RoutingRun(
        experts=model.experts,
        layers=model.layers,
        top_k=model.top_k,
        capacity=cache.capacity,
        routing=cache.routing,
        eviction=cache.eviction,
        pool=cache.pool,
        initial_cache=initial_cache,
        router=model.router,
    )


def empty_row(model: ScoredModel, cache: Cache, run: RoutingRun) -> Quality:
    """The row to fill."""
    return Quality(
        routing=run.routing,
        requested=cache.routing,
        note=run.note,
        eviction=cache.eviction,
        pool=cache.pool,
        capacity=cache.capacity,
        expert_precision=cache.precision,
        layers=len(model.layers),
        experts=model.experts,
        top_k=model.top_k,
    )
