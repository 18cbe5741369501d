# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Halves of surrogate pairs: JSON and Python can say them, UTF-8 and tokenizers cannot."""

from __future__ import annotations

from moe_mobile.errors import UsageError

_REMEDY = (
    'Correct the text, for example by text.encode("utf-16", "surrogatepass")'
    '.decode("utf-16", "replace")'
)


def require_text(text: str) -> None:
    """Raises UsageError for a prompt with half of a pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _half(f"character {error.start} of the text is", "prompt") from None


def require_texts(written: str, what: str, setting: str) -> None:
    """Raises UsageError for JSON, called ``what`` and written without escapes, with half of a pair
    in any of its texts."""
    try:
        written.encode()
    except UnicodeEncodeError:
        raise _half(f"{what} has", setting) from None


def _half(begin: str, setting: str) -> UsageError:
    return UsageError(
        f"{begin} half a surrogate pair, which no tokenizer takes", setting=setting, remedy=_REMEDY
    )
