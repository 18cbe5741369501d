# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A generation under way: an iterator of text or token ids, and its result at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

from moe_mobile.errors import UsageError
from moe_mobile.results import GenerationResult, Stats
from moe_mobile.text.detokenizer import Detokenizer

Piece = TypeVar("Piece")
"""``str`` or ``int``."""


class Ending(NamedTuple):
    """Why a generation ended, and what it took."""

    stop: Literal["eos", "length", "context"]
    stats: Stats


class Generation(Generic[Piece]):
    """The rest of a generation, decoded as it is taken.

    Iterating gives text for a prompt of text or messages, a token or a few at a time and never
    half a character; it gives token ids for a prompt of token ids. :meth:`Engine.generate` makes
    it. Errors while decoding come out of the iteration.

    Args:
        prompt_tokens: tokens of the prompt.
        step: decodes the next token, or says how the generation ended.
        stream: turns tokens into text; None: token ids are given out.
    """

    def __init__(
        self, prompt_tokens: int, step: Callable[[], int | Ending], stream: Detokenizer | None
    ) -> None:
        self._prompt_tokens = prompt_tokens
        self._ids: list[int] = []
        self._result: GenerationResult | None = None
        self._pieces = cast(Iterator[Piece], self._run(step, stream))

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._pieces)

    def result(self) -> GenerationResult:
        """All of it, once the rest is decoded, which this does if it must."""
        for _ in self._pieces:
            pass
        if self._result is None:
            raise UsageError(
                "the generation failed, so it has no result", remedy="Generate it again."
            )
        return self._result

    def _run(self, step: Callable[[], int | Ending], stream: Detokenizer | None) -> Iterator[Any]:
        texts: list[str] = []
        while isinstance(token := step(), int):
            self._ids.append(token)
            if stream is None:
                yield token
            elif piece := stream.step(token):
                texts.append(piece)
                yield piece
        rest = "" if stream is None else stream.finish()
        self._result = GenerationResult(
            None if stream is None else "".join(texts) + rest,
            tuple(self._ids),
            self._prompt_tokens,
            token.stop,
            token.stats,
        )
        if rest:
            yield rest
