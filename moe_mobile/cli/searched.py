# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What `tune` searches settings for: a bundle in the engine, or a checkpoint in transformers."""

from __future__ import annotations

import abc
import hashlib
import pathlib
from typing import TYPE_CHECKING, Any

from moe_mobile.cli.options import engine_request
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.prompt import TOKENIZER
from moe_mobile.cli.source import Text, bundle_ids, checkpoint_ids
from moe_mobile.demo import checkpoint_dir, heldout_text
from moe_mobile.device.select import open_device
from moe_mobile.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe_mobile.quality.score import Cache, QualitySource, Scorer
    from moe_mobile.routing.trace import Trace
    from moe_mobile.tune.sweep import Workers

__all__ = ["Searched", "SearchedBundle", "SearchedCheckpoint"]

_DEMO = "demo"
_OF_BENCH = ("residency", "lanes", "threads", "packed_dir")


class Searched(abc.ABC):
    """A model that is open.

    Attributes:
        scorer: it, and where it runs.
        source: the same for other processes.
        place: the device it runs on; None: transformers has it.
    """

    scorer: Scorer
    source: QualitySource
    place: str | None = None

    @abc.abstractmethod
    def ids(self, text: Text | None) -> list[int]:
        """Token ids of a text; of the demo model's own where there is none.

        Raises UsageError where there is none of either.
        """

    @abc.abstractmethod
    def workers(self, jobs: int | None, caches: Sequence[Cache]) -> Workers:
        """Those of this machine that score under the caches; None: as many as it can take."""

    @abc.abstractmethod
    def trace(self, ids: Sequence[int], progress: ProgressBar) -> Trace:
        """What the routers say about a text."""

    def _processes(self, jobs: int) -> Workers:
        from moe_mobile.tune.processes import score_in_processes
        from moe_mobile.tune.sweep import score_here

        return score_here(self.scorer) if jobs == 1 else score_in_processes(self.source, jobs)


class SearchedBundle(Searched):
    """A bundle. On a phone it is scored under one routing after another.

    ``settings``: of the runner's ``open`` request, ``engine``: those of them that a speed depends
    on, with nothing of routing and cache.
    """

    def __init__(
        self,
        bundle: pathlib.Path,
        device: str | None,
        settings: dict[str, Any],
        progress: ProgressBar,
    ) -> None:
        from moe_mobile.quality.engine import EngineScorer, EngineSource

        # A job has a core, unless the user says otherwise.
        self._threads = settings["threads"]
        self.settings = engine_request(settings, bundle)
        self.engine = {name: self.settings[name] for name in _OF_BENCH if name in self.settings}
        self.bundle, self._device, self._progress = bundle, device, progress
        # Other machines may be elsewhere.
        self._path = str(bundle.absolute())
        self.device = open_device(device)
        self.place = self.device.serial
        self.scorer = EngineScorer(self.device, bundle, self.settings, progress=progress)
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
        from moe_mobile.tune.memory import fitting_engines
        from moe_mobile.tune.processes import cores

        if self._device is not None:
            return self._processes(1)
        if jobs is None:
            largest = max(cache.capacity for cache in caches)
            share = 100 * largest / self.scorer.model.experts
            settings = self.settings | {"cache": f"{share:.12f}%", "pool": caches[0].pool}
            fitting = fitting_engines(self.device, str(self.bundle), settings, self._progress)
            jobs = min(fitting, max(1, cores() // (self._threads or 1)), len(caches))
        return self._processes(jobs)

    def trace(self, ids: Sequence[int], progress: ProgressBar) -> Trace:
        from moe_mobile.routing.trace_engine import record_engine

        return record_engine(
            self.device, self.bundle, ids, settings=self.settings, progress=progress
        )


class SearchedCheckpoint(Searched):
    """A checkpoint. It is in this process's memory once, so it is scored here unless more jobs are
    asked for."""

    def __init__(
        self,
        name: str,
        dtype: str,
        torch_device: str | None,
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
        source = TransformersSource(place, dtype, torch_device, context)
        self.source = self._source = source
        self.scorer = TransformersScorer(self._checkpoint, source, progress)

    def ids(self, text: Text | None) -> list[int]:
        return checkpoint_ids(self._checkpoint, text or _own_text(self._name == _DEMO))

    def workers(self, jobs: int | None, caches: Sequence[Cache]) -> Workers:
        return self._processes(jobs or 1)

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


def _own_text(is_demo: bool) -> str:
    if not is_demo:
        raise UsageError(
            "there is no text to score: only the demo model has one of its own",
            setting="--text",
            remedy="Give one that is like what the model will be asked, with --text FILE",
        )
    return heldout_text()
