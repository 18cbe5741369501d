# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``tokenizer.json``, the same file in a checkpoint and in a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
"""Name of the tokenizer's file in a bundle or checkpoint."""


def parse_tokenizer(data: bytes) -> Tokenizer:
    """A tokenizer that takes texts as they are. Raises ValueError if it cannot be read."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"the tokenizer cannot be read: {error}") from error
    # Left over from training; transformers ignores them too.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
