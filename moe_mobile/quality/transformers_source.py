# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Stepwise perplexity of a checkpoint in transformers, under a routing that sees the cache.

Every sequence is teacher-forced: with a cache for each layer at a prompt's speed, with one that
layers share token by token. :mod:`moe_mobile.quality.transformers_routing` says why.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_mobile.base.progress import Progress, silent
from moe_mobile.quality.score import (
    Cache,
    ScoredModel,
    Scorer,
    ScoreSequence,
    SequenceScore,
)
from moe_mobile.quality.transformers_routing import RoutedModel
from moe_mobile.routing.run import RoutingRun
from moe_mobile.routing.transformers_model import (
    Checkpoint,
    checked_context,
    find_device,
    load_model,
    memory_errors,
    open_checkpoint,
)


@dataclass(frozen=True)
class TransformersSource:
    """A checkpoint: a folder, a Hugging Face id or "demo"; the rest as ``trace`` takes it.

    Attributes:
        stepwise: decode token by token even if that makes no difference, as a check.
    """

    checkpoint: str
    dtype: str = "float32"
    torch_device: str | None = None
    context: int | None = None
    stepwise: bool = False

    def open(self, progress: Progress = silent) -> TransformersScorer:
        """Raises what opening a checkpoint does, UsageError; BudgetError at the first score."""
        return TransformersScorer(open_checkpoint(self.checkpoint), self, progress)


class TransformersScorer(Scorer):
    """A checked checkpoint; its model is loaded when it is first scored."""

    def __init__(
        self, checkpoint: Checkpoint, source: TransformersSource, progress: Progress = silent
    ) -> None:
        """``source``: how to load the checkpoint; errors as :meth:`TransformersSource.open`."""
        architecture = checkpoint.model.architecture
        self._checkpoint, self._source, self._progress = checkpoint, source, progress
        self._device = find_device(source.torch_device)
        self.model = ScoredModel(
            **vars(checkpoint.facts(source.dtype)),
            source="transformers",
            source_id=checkpoint.model.label,
            identity=" ".join(
                (
                    checkpoint.model.fingerprint(),
                    checkpoint.model.store.written(),
                    self._device.type,
                )
            ),
            vocab_size=architecture.vocab_size,
            context=checked_context(checkpoint, source.context),
        )

    @functools.cached_property
    def _loaded(self) -> Any:
        self._progress("load model", 0, 1)
        with memory_errors(self._checkpoint):
            return load_model(self._checkpoint, self._source.dtype, self._device, head=True)

    @contextlib.contextmanager
    def _scoring(self, cache: Cache, run: RoutingRun) -> Iterator[ScoreSequence]:
        routed = RoutedModel(
            self._loaded,
            run,
            self.model,
            shared=self._source.stepwise or cache.pool == "global",
        )

        def score(token_ids: Sequence[int], progress: Progress) -> SequenceScore:
            before = run.totals()
            with memory_errors(self._checkpoint), routed.sequence(keep=False):
                hidden = routed.forward(token_ids, progress=progress)
                values = routed.log_probabilities(hidden[:-1], token_ids[1:])
            after = run.totals()
            misses = after.misses - before.misses
            return SequenceScore(
                log_probabilities=np.asarray(values),
                hits=after.slots - before.slots - misses,
                misses=misses,
                dropped=misses - (after.loads - before.loads),
                changed=after.changed - before.changed,
            )

        yield score
