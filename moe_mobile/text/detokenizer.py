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
    Joined, the pieces are the text that decoding everything at once adds to the prompt's.
    """

    def __init__(self, decoder: TokenDecoder, prompt_ids: Sequence[int] = ()) -> None:
        self._decoder = decoder
        # Tokens whose text is out, kept as context; then tokens whose text is not, beginning with
        # those of a character that the prompt ends inside of. The context is never cut inside a
        # character, which would spoil what follows.
        end = self._end_of_characters(prompt_ids)
        self._context = list(prompt_ids[:end])
        self._pending = list(prompt_ids[end:])
        # What the prompt shows of that character. It is out, unless the character is completed.
        self._shown = self._text_of_pending()

    def step(self, token: int) -> str:
        """Text that can be shown now that `token` came; often empty."""
        self._pending.append(token)
        added = self._added()
        if not added or added.endswith(_REPLACEMENT):
            return ""
        self._context = self._pending
        self._pending = []
        self._shown = ""
        return added

    def finish(self) -> str:
        """What was held back, U+FFFD for the bytes that never became a character."""
        added = self._added()
        self._context, self._pending, self._shown = [], [], ""
        return added

    def _added(self) -> str:
        return self._text_of_pending().removeprefix(self._shown)

    def _text_of_pending(self) -> str:
        if not self._pending:
            return ""
        before = self._decoder.decode(self._context)
        whole = self._decoder.decode(self._context + self._pending)
        return whole[len(before) :]

    def _end_of_characters(self, ids: Sequence[int]) -> int:
        """How many tokens come before the character that these end inside of."""
        # All if they end with a whole one. Three tokens hold at most three bytes of four; if it
        # takes more, U+FFFD stands in the text itself.
        for end in range(len(ids), max(-1, len(ids) - _MOST_BYTES), -1):
            if not self._decoder.decode(ids[:end]).endswith(_REPLACEMENT):
                return end
        return len(ids)
