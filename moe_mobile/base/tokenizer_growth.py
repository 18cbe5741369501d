# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How much longer than a text what a ``tokenizer.json`` makes of it can get.

A few lines of rules can make a text a million times as long. The tokenizers library ends the
process when the memory is not enough, so rules are judged by their JSON before it reads them.
"""

from __future__ import annotations

import base64
import math
import unicodedata
from collections.abc import Iterator
from typing import Any

MOST_TIMES = 500
"""Published tokenizers stay far below: 8 with byte-level BPE, 2 with Mixtral's rules, less than 150
with SentencePiece's tables of characters."""

MOST_CHARACTERS = 1 << 14
"""Of one token: published ones have some hundred spaces in a row."""

# What holds the steps of a Sequence.
_STEPS = ("normalizers", "pretokenizers", "decoders", "processors")
# They replace single characters, for good: again, they change nothing.
_OF_CHARACTERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "BertNormalizer")
_MOST_OF_A_CHARACTER = 18  # U+FDFA
# A space before each piece or token; with ByteLevel also a character for each of four bytes.
_TIMES = {"Metaspace": 2, "WordPiece": 2, "BPEDecoder": 2, "CTC": 2, "ByteLevel": 8}


def require_limited(tokenizer: dict[str, Any]) -> None:
    """Raises ValueError if a text, its ids, or the text of ids could get too long."""
    texts, decoded = _Growth(), _Growth()
    texts.add(tokenizer.get("normalizer"))
    texts.add(tokenizer.get("pre_tokenizer"))
    decoded.add(tokenizer.get("decoder"))
    for times, what in (
        (texts.times, "normalizer and pre_tokenizer can make a text"),
        (decoded.times, "decoder can make a text"),
        (_times_of_ids(tokenizer.get("post_processor")), "post_processor can make a list of ids"),
    ):
        if times > MOST_TIMES:
            raise ValueError(f"its {what} more than {MOST_TIMES} times as long")
    longest = max(map(len, _tokens(tokenizer)), default=0)
    if longest > MOST_CHARACTERS:
        raise ValueError(f"it has a token of more than {MOST_CHARACTERS} characters")


class _Growth:
    """How many times as long a text can be after some steps, in characters.

    What Unicode's rules do once to a text is not counted: all tokenizers have that.
    """

    def __init__(self) -> None:
        self.times = 1.0
        # Whether a step wrote characters that later ones replace, and whether one had a table.
        self._writes = self._has_table = False

    def add(self, step: object) -> None:
        """A step, or a sequence of them; anything else has no effect."""
        if not isinstance(step, dict):
            return
        kind, sequences = step.get("type"), [name for name in _STEPS if name in step]
        for name in sequences:
            for inner in _list(step[name]):
                self.add(inner)
        if kind in _OF_CHARACTERS and self._writes:
            self.times *= _MOST_OF_A_CHARACTER
            self._writes = False
        if isinstance(kind, str):
            self.times *= _TIMES.get(kind, 1)
        elif not sequences:  # an old file, where the members tell
            self.times *= max(_TIMES.values())
        content, before = step.get("content"), step.get("prepend")
        if "pattern" in step and isinstance(content, str):
            self._write(content, _times_of_replacing(step["pattern"], content))
        if isinstance(before, str):
            # Added tokens between them can make each character a text of its own.
            self._write(before, 1 + len(before))
        if isinstance(table := step.get("precompiled_charsmap"), str):
            self.times *= _longest_in(table)
            self._writes |= self._has_table
            self._has_table = True

    def _write(self, content: str, times: float) -> None:
        self.times *= max(1, times)
        self._writes |= unicodedata.normalize("NFKD", content).lower() != content


def _times_of_replacing(pattern: object, content: str) -> float:
    text = pattern.get("String") if isinstance(pattern, dict) else pattern
    # A regular expression may also match the nothing before each character.
    return len(content) / len(text) if isinstance(text, str) and text else 1 + len(content)


def _longest_in(table: str) -> int:
    """Of the texts in SentencePiece's table: the size of an index, the index, texts that each end
    with a zero."""
    try:
        data = base64.b64decode(table)
    except ValueError:
        return 1  # nor can the library read it
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(len(text.decode(errors="replace")) for text in texts.split(b"\0")) or 1


def _times_of_ids(processor: object) -> float:
    """How many ids there can be for each."""
    if not isinstance(processor, dict):
        return 1
    times = math.prod((_times_of_ids(one) for one in _list(processor.get("processors"))), start=1.0)
    special = processor.get("special_tokens")
    for piece in _list(processor.get("single")):
        token = piece.get("SpecialToken") if isinstance(piece, dict) else None
        name = token.get("id") if isinstance(token, dict) else None
        found = special.get(name) if isinstance(special, dict) and name is not None else None
        times += len(_list(found.get("ids"))) if isinstance(found, dict) else 1
    return times


def _tokens(tokenizer: dict[str, Any]) -> Iterator[str]:
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from vocabulary
    # With a score each.
    yield from (one[0] for one in _list(vocabulary) if isinstance(one, list) and one)
    for token in _list(tokenizer.get("added_tokens")):
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            yield token["content"]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
