# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a user gives as a prompt: text in a file, or token ids."""

from __future__ import annotations

import codecs
import re
from typing import IO

from moe_mobile.errors import UsageError


def read_text(file: IO[bytes] | None) -> str:
    """A prompt from a file, without a byte order mark. Raises UsageError if it is empty or not
    UTF-8."""
    assert file is not None
    data = file.read().removeprefix(codecs.BOM_UTF8)
    if not data:
        raise UsageError("the file is empty", file=file.name, remedy="Give a file with a text")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt is not UTF-8: {error.reason} at byte {error.start}",
            file=file.name,
            remedy="Convert it, for example with iconv",
        ) from None


def parse_ids(text: str) -> list[int]:
    """Token ids, separated by commas or blanks. Raises UsageError."""
    # Blanks separate too, so that ids printed by generate can be given back.
    parts = re.split(r"\s*,\s*|\s+", text.strip())
    if not all(re.fullmatch("[0-9]{1,10}", part) for part in parts):
        raise UsageError(
            f"not a list of token ids: {text!r}", remedy="Write it like --token-ids 5,17,9"
        )
    return [int(part) for part in parts]
