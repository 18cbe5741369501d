# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine in this process: the same C++ library that ``moe_runner`` and the app use."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard, Unpack, cast, overload

from moe_mobile.base.json_text import json_text
from moe_mobile.base.progress import Progress
from moe_mobile.errors import UsageError
from moe_mobile.forks import leave_when_forked, never_destroy, refuse_forked
from moe_mobile.generation import Ending, Generation
from moe_mobile.results import Info, MemoryPlan, Residency, Stats, from_json
from moe_mobile.settings import (
    CacheSettings,
    EngineSettings,
    ReadingSettings,
    RoutingSettings,
    SettingKeywords,
    index,
    to_json,
    utf8,
    whole,
)
from moe_mobile.text.tokenizer import BundleText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from moe_mobile import _native
    from moe_mobile.text.chat import Message


class GenerateKeywords(TypedDict, total=False):
    """Options of :meth:`Engine.generate`."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    ignore_eos: bool
    chat_template_kwargs: Mapping[str, Any] | None


class Engine:
    """An open bundle that generates and scores, its experts streaming through a bounded cache.

    Calls from several threads wait for each other, except :meth:`cancel`, :meth:`resize`,
    :meth:`residency` and :attr:`info`, which work at once while another call runs. Callbacks can
    use these four of the engine that they are called by, and nothing else. All engines of one
    process share ExecuTorch's thread pool and must use the same number of threads.

    >>> with Engine("demo", cache="25%") as engine:
    ...     for piece in engine.generate("Once upon a time", 20):
    ...         print(piece, end="", flush=True)

    Args:
        bundle: folder of the bundle. One that was not prepared for this CPU is prepared now.
        cache: which experts stay in memory; a text is its ``size``, such as ``"512MiB"``.
        routing: how experts are chosen; a text is its ``method``, such as ``"cache-prior:auto"``.
        reading: how experts come from flash into memory; a text is its ``residency``.
        threads: threads that compute; None: one per core.
        context: positions of the KV cache; None: the model's, at most 4096.
        progress: called while the bundle is opened and while a prompt is read, with a stage
            ("verify", "wait" (for another process that prepares the bundle, in seconds),
            "prepare dense", "prepare", "load dense", "load", "prefill"), steps done, and steps in
            all. What it raises stops the work.
        planned: called with the memory plan (:attr:`info`'s ``plan``) before memory is taken, and
            again if the engine falls back to another residency.
        keywords: single members of the three groups, under the engine's names: ``residency``,
            ``lanes``, ``packed_dir``, ``pool``, ``eviction``, ``initial_cache``,
            ``cache_profile``, ``allow_below_cycle``, ... They replace those of the groups.

    Raises:
        MoeMobileError: a subclass for each kind of failure: a broken bundle, too small a budget, a
            full disk, ...
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        cache: str | CacheSettings | None = None,
        routing: str | RoutingSettings | None = None,
        reading: str | ReadingSettings | None = None,
        *,
        threads: int | None = None,
        context: int | None = None,
        progress: Progress | None = None,
        planned: Callable[[MemoryPlan], None] | None = None,
        **keywords: Unpack[SettingKeywords],
    ) -> None:
        from moe_mobile import _native

        refuse_forked()
        settings = EngineSettings.of(cache, routing, reading, threads, context)
        settings = settings.with_values(keywords)
        path = utf8("bundle", bundle)
        self._text = BundleText(path)
        self._lock = threading.Lock()
        self._user: int | None = None  # the thread that holds the lock
        self._generator: _native.Generator | None = None
        self._generation = 0
        self._progress = progress

        def tell(plan: str) -> None:
            if planned is not None:
                planned(from_json(MemoryPlan, json.loads(plan)))

        self._engine: _native.Engine | None = _native.open(
            path, to_json(settings.as_request()), progress, tell
        )
        leave_when_forked(self)

    @overload
    def generate(
        self,
        prompt: str | Sequence[Message],
        max_new_tokens: int = ...,
        **options: Unpack[GenerateKeywords],
    ) -> Generation[str]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[int],
        max_new_tokens: int = ...,
        **options: Unpack[GenerateKeywords],
    ) -> Generation[int]: ...

    def generate(
        self,
        prompt: str | Sequence[Message] | Sequence[int],
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        ignore_eos: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Generation[str] | Generation[int]:
        """Continues a prompt, which starts a new conversation.

        The prompt is read before this returns; tokens are decoded as they are taken.

        Args:
            prompt: a text; chat messages, each a mapping with a ``role`` and a ``content``, which
                the model's chat template writes out; or token ids. At least one token.
            max_new_tokens: the most tokens to generate.
            temperature: 0 takes the most probable token; else logits are divided by it.
            top_k: keep only so many of the most probable tokens; 0 keeps all.
            top_p: keep the smallest set of tokens whose probabilities add up to it.
            seed: of the sampling; equal seeds give equal tokens.
            ignore_eos: go on after an end-of-sequence token.
            chat_template_kwargs: for messages, what the model's chat template reads besides, by
                name: ``{"enable_thinking": False}``, or ``tools``, a list of JSON schemas.

        Returns:
            An iterator: of text for a text and for messages, of token ids for token ids. The
            end-of-sequence token is not among them. Its ``result()`` has everything at once.

        Raises:
            UsageError: an argument is wrong, or the bundle has no tokenizer or chat template.
            BundleInvalidError: the tokenizer or the chat template is broken.
        """
        sampling = {
            "temperature": _finite("temperature", temperature),
            "top_k": whole("top_k", top_k),
            "top_p": _finite("top_p", top_p),
            "seed": whole("seed", seed),
        }
        count = whole("max_new_tokens", max_new_tokens)
        if not isinstance(ignore_eos, bool):
            raise UsageError(
                f"{ignore_eos!r} is neither True nor False",
                setting="ignore_eos",
                remedy="Give True to go on after an end-of-sequence token.",
            )
        stream = None
        with _naming_the_prompt():
            if chat_template_kwargs is not None and not _is_chat(prompt):
                raise UsageError(
                    "it is for messages",
                    setting="chat_template_kwargs",
                    remedy="Leave it out, or give a list of messages as the prompt.",
                )
            if _is_text(prompt):
                ids = _checked(self._text.encode(prompt, chat_template_kwargs))
                stream = self._text.stream(ids)
            else:
                ids = _checked(cast(Sequence[int], prompt))
            with self._use() as engine:
                self._generation += 1
                self._generator = engine.generate(
                    ids, count, json_text(sampling), ignore_eos, self._progress
                )
                step = functools.partial(self._step, self._generation)
        return Generation(len(ids), step, stream)

    def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each token, teacher-forced, one token at a time as decoding does.

        Returns:
            float32 array [T, vocab]; row t belongs to the token that follows ``token_ids[t]``.
        """
        ids = _checked(token_ids)
        with self._use() as engine:
            return engine.score(ids)

    def nll(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Negative log-likelihood of each token given those before it, scored as :meth:`score`.

        Returns:
            float32 array [T - 1] in nats; value t belongs to ``token_ids[t + 1]``. The first token
            has nothing before it and so no value.
        """
        ids = _checked(token_ids)
        with self._use() as engine:
            return engine.nll(ids)

    @property
    def stats(self) -> Stats:
        """What happened since the last generate, score, nll or reset."""
        with self._use() as engine:
            return from_json(Stats, json.loads(engine.stats_json()))

    @property
    def info(self) -> Info:
        """Resolved settings, memory plan, model facts and the bundle's hash, from any thread.

        It does not wait for a running call.
        """
        return from_json(Info, json.loads(self._opened().info_json()))

    def reset(self) -> None:
        """Forgets the conversation and the statistics; of the cache what ``initial_cache`` says."""
        with self._use() as engine:
            engine.reset()

    def cancel(self) -> None:
        """Stops what runs, from any thread: it raises CancelledError.

        A prompt stops before its next batch in a layer, everything else after the token that is
        being decoded. A generation whose next token was not asked for yet is over, too. The engine
        can be used as before. Does nothing if nothing runs.
        """
        engine = self._engine  # close() may come at any time
        if engine is not None:
            engine.cancel()

    def resize(self, cache: str) -> None:
        """Gives the experts another budget, from any thread, while the engine is open.

        What no longer fits leaves by the cache's eviction, and its memory goes back to the system:
        at once, or after the token that is being decoded (of a prompt: the batch). A larger budget
        takes memory as experts come in. With exact routing the output stays the same to the bit.

        Args:
            cache: as for opening, such as ``"512MiB"``, ``"25%"`` or ``"auto"``.

        Raises:
            BudgetError: it is too small, or more than there is. Nothing has changed.
            UsageError: it is not a size, or the residency is ``resident``. Nothing has changed.
        """
        if not isinstance(cache, str):
            raise UsageError(
                f"invalid cache {cache!r}",
                setting="cache",
                remedy='Give a text such as "512MiB", "25%" or "auto".',
            )
        self._opened().resize(cache)

    def residency(self) -> Residency:
        """Which experts are in memory, from any thread; it costs a running call nothing."""
        return Residency(**self._opened().residency())

    def close(self) -> None:
        """Gives the memory back. Neither the engine nor its iterators can be used afterwards."""
        self._refuse_callbacks()
        with self._lock:
            self._generator = self._engine = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(self, generation: int) -> int | Ending:
        """The next token. Iterators hold no native object, so that close() frees all memory."""
        with self._use() as engine:
            if self._generator is None or generation != self._generation:
                raise UsageError(
                    "the engine has begun another conversation",
                    remedy="Take all tokens of one generation before the next call, or open a "
                    "second engine.",
                )
            token = self._generator.next()
            if token is not None:
                return token
            return Ending(self._generator.stop, from_json(Stats, json.loads(engine.stats_json())))

    def _opened(self) -> _native.Engine:
        """The native engine, for calls that any thread may make at any time."""
        engine = self._engine
        if engine is None:
            refuse_forked()
            raise UsageError("the engine is closed", remedy="Open a new one.")
        return engine

    def _leave(self) -> None:
        """For a process that was forked (moe_mobile/forks.py): never touches the native engine."""
        never_destroy(self._engine, self._generator)
        self._engine = self._generator = None
        self._lock, self._user = threading.Lock(), None  # another thread may have held it

    def _refuse_callbacks(self) -> None:
        """They would wait for themselves."""
        if self._user == threading.get_ident():
            raise UsageError(
                "the engine was used by its own callback", remedy="Wait until the call is over."
            )

    @contextlib.contextmanager
    def _use(self) -> Iterator[_native.Engine]:
        """The native engine, for this thread alone."""
        self._refuse_callbacks()
        with self._lock:
            self._user = threading.get_ident()
            try:
                yield self._opened()
            finally:
                self._user = None


def _is_chat(prompt: object) -> bool:
    """Whether a prompt is a list of messages."""
    return not isinstance(prompt, str) and _is_text(cast("Sequence[Message]", prompt))


def _is_text(
    prompt: str | Sequence[Message] | Sequence[int],
) -> TypeGuard[str | Sequence[Message]]:
    """Whether a prompt needs the tokenizer. Raises UsageError for what cannot be a prompt."""
    if isinstance(prompt, str):
        return True
    try:
        if isinstance(prompt, Mapping):
            raise TypeError
        return len(prompt) > 0 and isinstance(prompt[0], Mapping)
    except TypeError:
        raise UsageError(
            f"the prompt is neither a text nor a list, but of type {type(prompt).__name__}",
            setting="prompt",
            remedy="Give a text, a list of token ids, or a list of messages such as "
            '[{"role": "user", "content": "Hello"}].',
        ) from None


@contextlib.contextmanager
def _naming_the_prompt() -> Iterator[None]:
    """Errors of :meth:`Engine.generate` name its argument ``prompt``, which others call
    ``token_ids``."""
    try:
        yield
    except UsageError as error:
        remedy = (error.remedy or "").replace("`token_ids`", "token ids as the `prompt`")
        if error.setting == "token_ids":
            raise error.replaced(setting="prompt", remedy=remedy or None) from None
        if remedy != (error.remedy or ""):
            raise error.replaced(remedy=remedy) from None
        raise


def _checked(token_ids: Sequence[int]) -> list[int]:
    if isinstance(token_ids, bytes | bytearray | memoryview):
        raise UsageError(
            f"{type(token_ids).__name__} are not token ids",
            setting="token_ids",
            remedy="Give a list of whole numbers; for generate, a text will do: decode the bytes.",
        )
    try:
        ids = [index(token) for token in token_ids]
    except TypeError as error:
        raise UsageError(
            f"a token id is not an integer: {error}",
            setting="token_ids",
            remedy="Give a list of whole numbers.",
        ) from None
    if not ids:
        raise UsageError("there are no tokens", setting="token_ids", remedy="Give at least one.")
    if min(ids) < 0 or max(ids) >= 2**32:
        raise UsageError(
            "a token id is out of range",
            setting="token_ids",
            remedy="Tokenize with the bundle's own tokenizer.",
        )
    return ids


def _finite(name: str, value: float) -> float:
    try:
        # float() takes True and "0.5" too.
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{value!r} is not a finite number", setting=name)
    return number
