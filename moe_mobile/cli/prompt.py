# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a user gives as a prompt: text in a file, token ids, and the tokenizer between them."""

from __future__ import annotations

import hashlib
import pathlib
import re
from typing import IO, TYPE_CHECKING

from moe_mobile.errors import BundleCorruptError, BundleInvalidError, UsageError, read_error

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TOKENIZER", "load_tokenizer", "parse_ids", "read_text"]

TOKENIZER = "tokenizer.json"
"""Name of the tokenizer's file in a bundle or checkpoint."""


def read_text(file: IO[bytes] | None) -> str:
    """A prompt from a file. Raises UsageError where it is not UTF-8."""
    assert file is not None
    try:
        return file.read().decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt is not UTF-8: {error.reason} at byte {error.start}",
            file=file.name,
            remedy="Convert it, for example with iconv",
        ) from None


def parse_ids(text: str) -> list[int]:
    """Token ids, separated by commas or blanks. Raises UsageError."""
    # Blanks separate too: what generate prints without a tokenizer can be given back.
    parts = re.split(r"\s*,\s*|\s+", text.strip())
    if not all(re.fullmatch("[0-9]{1,10}", part) for part in parts):
        raise UsageError(
            f"not a list of token ids: {text!r}", remedy="Write it like --token-ids 5,17,9"
        )
    return [int(part) for part in parts]


def load_tokenizer(bundle: pathlib.Path) -> Tokenizer:
    """A bundle's tokenizer. Raises UsageError without one, and the bundle reader's errors."""
    from moe_mobile.bundle import read_manifest

    path = bundle / TOKENIZER
    files = {file.path: file for file in read_manifest(bundle).files}
    if TOKENIZER not in files:
        raise UsageError(
            "this bundle has no tokenizer",
            file=path,
            remedy="Pass --token-ids instead of text, or export again from a folder with "
            "tokenizer.json",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise read_error(error, path) from error
    if hashlib.sha256(data).hexdigest() != files[TOKENIZER].sha256:
        raise BundleCorruptError(
            "bytes differ from their SHA-256", file=path, remedy="Copy or export the bundle again"
        )
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise BundleInvalidError(
            f"the tokenizer cannot be read: {error}",
            file=path,
            remedy="Export again from a complete checkpoint",
        ) from error
