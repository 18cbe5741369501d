# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Text from token ids as they come, without ever showing half a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_REPLACEMENT = "\ufffd"
_MOST_BYTES = 4  # of a character in UTF-8


class TokenDecoder(Protocol):
    """What a `tokenizers.Tokenizer` offers here."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of a sequence of tokens."""


class Detokenizer:
    """Turns a stream of token ids into a stream of text.

    One token may hold only a part of a character's UTF-8 bytes; such text is held back until it is
    complete. A token's text may also depend on what precedes it (SentencePiece drops the space
    before the first word), so each step decodes a few tokens again and takes what they added.
    Joined, the pieces are the text that decoding everything at once adds to the prompt's; but
    characters that are out stay so where bytes after them spoil them (byte fallback).
    """

    def __init__(self, decoder: TokenDecoder, prompt_ids: Sequence[int] = ()) -> None:
        self._decoder = decoder
        # Tokens whose text is out, kept as context; then tokens whose text is not.
        self._context = list(prompt_ids)
        self._pending: list[int] = []
        self._out = self._texts_of_context()

    def step(self, token: int) -> str:
        """Text that can be shown now that `token` came; often empty."""
        self._pending.append(token)
        added = self._added()
        if not added or added.endswith(_REPLACEMENT):
            return ""
        # A context never begins inside a character, which would spoil what follows.
        self._context = [*self._context, *self._pending] if len(self._out) > 1 else self._pending
        self._pending = []
        self._out = [self._decoder.decode(self._context)]
        return added

    def finish(self) -> str:
        """What was held back, U+FFFD for the bytes that never became a character."""
        added = self._added()
        self._context, self._pending, self._out = [], [], [""]
        return added

    def _added(self) -> str:
        if not self._pending:
            return ""
        whole = self._decoder.decode(self._context + self._pending)
        for text in self._out:
            if whole.startswith(text):
                return whole[len(text) :]
        # Without one, what both texts begin with is out: nothing is lost.
        added = whole[_common(whole, self._out[0]) :]
        if added.startswith(_REPLACEMENT):
            # Bytes that never become a character spoil those before them (byte fallback), whose
            # characters are out.
            return self._decoder.decode(self._pending)
        return added

    def _texts_of_context(self) -> list[str]:
        """What may be out of the context's text, the most first.

        U+FFFD at its end stands for a character that the prompt ends inside of, or for itself. The
        tokens that follow tell: what is out is a beginning of the whole text.
        """
        text = self._decoder.decode(self._context)
        if not text.endswith(_REPLACEMENT):
            return [text]
        texts, end = [text], len(self._context)
        while end and len(texts) < _MOST_BYTES:
            end -= 1
            # Tokens without text, special ones, may stand inside of a character.
            if self._decoder.decode(self._context[end : end + 1]):
                texts.append(self._decoder.decode(self._context[:end]))
        return texts


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
