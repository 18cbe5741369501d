# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A model to record or score: a bundle in the engine, or a checkpoint in transformers."""

from __future__ import annotations

import abc
import functools
import pathlib
from typing import TYPE_CHECKING, Any

from moe_mobile.base.files import sha256_of
from moe_mobile.base.progress import Progress, silent
from moe_mobile.base.tokenizer import TOKENIZER, TextTokenizer, parse_tokenizer
from moe_mobile.demo import checkpoint_dir, heldout_text
from moe_mobile.device.select import open_device
from moe_mobile.errors import CheckpointError, UsageError
from moe_mobile.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe_mobile.quality.engine import EngineScorer
    from moe_mobile.quality.score import QualitySource, Scorer
    from moe_mobile.quality.transformers_source import TransformersScorer
    from moe_mobile.routing.trace import Trace

_DEMO = "demo"

MOST_TOKENS = 500_000
"""Of a text: more than WikiText-2 has, and to encode a much longer text takes gigabytes."""


class Subject(abc.ABC):
    """A model, and where it runs.

    Attributes:
        place: the device it runs on; None: transformers has it.
    """

    place: str | None = None

    @property
    @abc.abstractmethod
    def scorer(self) -> Scorer:
        """The model, ready to be scored in this process. Raises what opening it does."""

    @property
    @abc.abstractmethod
    def source(self) -> QualitySource:
        """The same for other processes."""

    def ids(self, text: str | list[int] | None, most: int | None = None) -> list[int]:
        """Token ids of a text by the model's tokenizer; None: the demo model's own text.

        ``most``: so many from the start; None: all.

        Raises UsageError if there is no text or no tokenizer, or if these are more than
        MOST_TOKENS; BundleInvalidError and CheckpointError for a tokenizer that cannot be read or
        used.
        """
        if isinstance(text, list):
            return text[:most]
        if text is None:
            if not self._is_demo():
                raise UsageError(
                    "there is no text to score: only the demo model has one of its own",
                    setting="file",
                    remedy="Give one that is like what the model will be asked, with `file`",
                )
            text = heldout_text()
        ids = self._tokenizer().ids(text, min(most or MOST_TOKENS, MOST_TOKENS))[:most]
        if len(ids) > MOST_TOKENS:
            raise UsageError(
                f"the text has more than {MOST_TOKENS} tokens",
                setting="tokens",
                remedy="Set it, to use fewer from the start",
            )
        return ids

    @abc.abstractmethod
    def trace(
        self, ids: Sequence[int], *, prompt_tokens: int = 0, progress: Progress = silent
    ) -> Trace:
        """The router logits of a text, recorded; errors as the recording's."""

    @abc.abstractmethod
    def _is_demo(self) -> bool: ...

    @abc.abstractmethod
    def _tokenizer(self) -> TextTokenizer: ...


class BundleSubject(Subject):
    """A bundle in the engine.

    Attributes:
        settings: of the runner's ``open`` request.
        elsewhere: whether it runs on another machine than this one.
    """

    def __init__(
        self,
        bundle: pathlib.Path,
        device: str | None,
        settings: dict[str, Any],
        progress: Progress = silent,
    ) -> None:
        """``device``: its serial; None: this machine. Raises what opening a device does."""
        self.bundle, self.settings = bundle, settings
        self.elsewhere = device is not None
        self.device = open_device(device)
        self.place = self.device.serial
        self._progress = progress

    @functools.cached_property
    def scorer(self) -> EngineScorer:
        from moe_mobile.quality.engine import EngineScorer

        return EngineScorer(self.device, self.bundle, self.settings, progress=self._progress)

    @property
    def source(self) -> QualitySource:
        from moe_mobile.quality.engine import EngineSource

        # A job has a core, unless the user says otherwise. Other machines may be elsewhere.
        shared = {"threads": 1} | self.settings
        return EngineSource(str(self.bundle.absolute()), None, tuple(sorted(shared.items())))

    def trace(
        self, ids: Sequence[int], *, prompt_tokens: int = 0, progress: Progress = silent
    ) -> Trace:
        from moe_mobile.routing.trace_engine import record_engine

        return record_engine(
            self.device,
            self.bundle,
            ids,
            settings=self.settings,
            prompt_tokens=prompt_tokens,
            progress=progress,
        )

    def _is_demo(self) -> bool:
        from moe_mobile.bundle import read_manifest

        manifest = read_manifest(self.bundle)
        own = sha256_of(checkpoint_dir() / TOKENIZER)
        files = {file.path: file.sha256 for file in manifest.files}
        return manifest.model.name == _DEMO and files.get(TOKENIZER) == own

    def _tokenizer(self) -> TextTokenizer:
        return load_tokenizer(self.bundle)


class CheckpointSubject(Subject):
    """A checkpoint in transformers."""

    def __init__(
        self,
        name: str,
        *,
        dtype: str,
        torch_device: str | None,
        context: int | None,
        progress: Progress = silent,
    ) -> None:
        """As :class:`TransformersSource`. Raises what opening a checkpoint does."""
        # Imports torch.
        from moe_mobile.quality.transformers_source import TransformersSource
        from moe_mobile.routing.transformers_model import open_checkpoint

        path = pathlib.Path(name)
        self._name, self._progress = name, progress
        self._checkpoint = open_checkpoint(name)
        place = str(path.absolute()) if path.is_dir() else name
        self._source = TransformersSource(place, dtype, torch_device, context)

    @functools.cached_property
    def scorer(self) -> TransformersScorer:
        from moe_mobile.quality.transformers_source import TransformersScorer

        return TransformersScorer(self._checkpoint, self._source, self._progress)

    @property
    def source(self) -> QualitySource:
        return self._source

    def trace(
        self, ids: Sequence[int], *, prompt_tokens: int = 0, progress: Progress = silent
    ) -> Trace:
        from moe_mobile.routing.transformers_trace import record_transformers

        return record_transformers(
            self._checkpoint,
            ids,
            context=self._source.context,
            dtype=self._source.dtype,
            torch_device=self._source.torch_device,
            prompt_tokens=prompt_tokens,
            progress=progress,
        )

    def _is_demo(self) -> bool:
        return self._name == _DEMO

    def _tokenizer(self) -> TextTokenizer:
        location = self._checkpoint.location
        data = self._checkpoint.model.files.get(TOKENIZER)
        if data is None:
            raise UsageError(
                f"there is no {TOKENIZER}",
                file=location,
                remedy="Give `token_ids` instead of text",
            )
        return parse_tokenizer(
            data,
            f"{location}/{TOKENIZER}",
            CheckpointError,
            "Download or copy the checkpoint again",
        )
