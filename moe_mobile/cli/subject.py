# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What `quality` and `tune` score: a bundle in the engine, or a checkpoint in transformers."""

from __future__ import annotations

import abc
import hashlib
import pathlib
from typing import TYPE_CHECKING

from moe_mobile.cli.options import ReadingOptions, engine_settings
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.source import CheckpointOptions, Text, bundle_ids, checkpoint_ids, is_bundle
from moe_mobile.demo import checkpoint_dir, heldout_text
from moe_mobile.device.select import open_device
from moe_mobile.errors import UsageError
from moe_mobile.text.tokenizer import TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe_mobile.quality.score import Cache, QualitySource, Scorer
    from moe_mobile.quality.sweep import Workers
    from moe_mobile.routing.trace import Trace

__all__ = ["BundleSubject", "CheckpointSubject", "Subject", "open_subject"]

_DEMO = "demo"
_OF_BENCH = ("residency", "lanes", "threads", "packed_dir")


class Subject(abc.ABC):
    """A model that is open.

    Attributes:
        scorer: the model, and where it runs.
        source: the same for other processes.
        place: the device it runs on; None: transformers has it.
    """

    scorer: Scorer
    source: QualitySource
    place: str | None = None

    @abc.abstractmethod
    def ids(self, text: Text | None) -> list[int]:
        """Token ids of a text; without one, of the demo model's own.

        Raises UsageError if there is neither.
        """

    @abc.abstractmethod
    def workers(self, jobs: int | None, caches: Sequence[Cache]) -> Workers:
        """Processes on this machine that score with the caches; None: as many as it can run."""

    @abc.abstractmethod
    def trace(self, ids: Sequence[int], progress: ProgressBar) -> Trace:
        """What the routers say about a text."""


class BundleSubject(Subject):
    """A bundle. On a phone it is scored under one routing after another.

    Attributes:
        settings: of the runner's ``open`` request, with nothing of routing and cache.
        engine: those of them that a speed depends on.
    """

    def __init__(
        self,
        bundle: pathlib.Path,
        device: str | None,
        reading: ReadingOptions,
        progress: ProgressBar,
    ) -> None:
        from moe_mobile.quality.engine import EngineScorer, EngineSource

        self.settings = engine_settings(bundle, reading).as_request()
        self.engine = {name: self.settings[name] for name in _OF_BENCH if name in self.settings}
        self.bundle, self._device, self._progress = bundle, device, progress
        # Other machines may be elsewhere.
        self._path = str(bundle.absolute())
        self.device = open_device(device)
        self.place = self.device.serial
        self.scorer = EngineScorer(self.device, bundle, self.settings, progress=progress)
        # A job has a core, unless the user says otherwise.
        shared = {"threads": 1} | self.settings
        self.source = EngineSource(self._path, None, tuple(sorted(shared.items())))

    def ids(self, text: Text | None) -> list[int]:
        if text is None:
            from moe_mobile.bundle import read_manifest

            own = hashlib.sha256((checkpoint_dir() / TOKENIZER).read_bytes()).hexdigest()
            files = {file.path: file.sha256 for file in read_manifest(self.bundle).files}
            text = _own_text(self.scorer.model.name == _DEMO and files.get(TOKENIZER) == own)
        return bundle_ids(self.bundle, text)

    def workers(self, jobs: int | None, caches: Sequence[Cache]) -> Workers:
        from moe_mobile.tune.memory import engines_at_a_time
        from moe_mobile.tune.processes import local_workers

        if self._device is not None:
            jobs = 1
        if jobs is None:
            experts = self.scorer.model.experts
            jobs = engines_at_a_time(
                self.device, str(self.bundle), self.settings, caches, experts, self._progress
            )
        return local_workers(self.scorer, self.source, jobs)

    def trace(self, ids: Sequence[int], progress: ProgressBar) -> Trace:
        from moe_mobile.routing.trace_engine import record_engine

        return record_engine(
            self.device, self.bundle, ids, settings=self.settings, progress=progress
        )


class CheckpointSubject(Subject):
    """A checkpoint. It is in this process's memory once, so it is scored here unless more jobs are
    asked for."""

    def __init__(
        self,
        name: str,
        options: CheckpointOptions,
        context: int | None,
        progress: ProgressBar,
    ) -> None:
        # Imports torch.
        from moe_mobile.quality.transformers_source import TransformersScorer, TransformersSource
        from moe_mobile.routing.transformers_model import open_checkpoint

        path = pathlib.Path(name)
        self._name = name
        place = str(path.absolute()) if path.is_dir() else name
        self._checkpoint = open_checkpoint(name)
        source = TransformersSource(place, options.dtype, options.torch_device, context)
        self.source = self._source = source
        self.scorer = TransformersScorer(self._checkpoint, source, progress)

    def ids(self, text: Text | None) -> list[int]:
        return checkpoint_ids(self._checkpoint, text or _own_text(self._name == _DEMO))

    def workers(self, jobs: int | None, caches: Sequence[Cache]) -> Workers:
        from moe_mobile.tune.processes import local_workers

        return local_workers(self.scorer, self.source, jobs or 1)

    def trace(self, ids: Sequence[int], progress: ProgressBar) -> Trace:
        from moe_mobile.routing.transformers_trace import record_transformers

        return record_transformers(
            self._checkpoint,
            ids,
            context=self._source.context,
            dtype=self._source.dtype,
            torch_device=self._source.torch_device,
            progress=progress,
        )


def open_subject(
    source: str,
    device: str | None,
    reading: ReadingOptions,
    checkpoint: CheckpointOptions,
    progress: ProgressBar,
) -> Subject:
    """Raises what opening the bundle and the device, or the checkpoint does."""
    if is_bundle(source):
        return BundleSubject(pathlib.Path(source), device, reading, progress)
    return CheckpointSubject(source, checkpoint, reading.context, progress)


def _own_text(is_demo: bool) -> str:
    if not is_demo:
        raise UsageError(
            "there is no text to score: only the demo model has one of its own",
            setting="--text",
            remedy="Give one that is like what the model will be asked, with --text FILE",
        )
    return heldout_text()
