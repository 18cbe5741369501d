# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer that transformers makes of a checkpoint's files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moe_mobile.base.quiet import quiet
from moe_mobile.base.special_tokens import CONFIG, SPECIAL
from moe_mobile.base.tokenizer import TOKENIZER, is_failure

SAVE_AGAIN = (
    "Load the tokenizer with transformers and save it again (AutoTokenizer.from_pretrained, "
    "save_pretrained)"
)
"""The remedy where its files and ``tokenizer.json`` do not agree."""

_FILES = (
    TOKENIZER,
    CONFIG,
    SPECIAL,
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.json",
)


def own_tokenizer(files: Mapping[str, bytes]) -> Any:
    """transformers' tokenizer of files that were judged before; it gets no others. None if it
    cannot load them, or not without code of theirs."""

    def load(folder: str) -> Any:
        from tokenizers import models
        from transformers import AutoTokenizer

        theirs = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model = theirs.backend_tokenizer.model
        if isinstance(model, models.BPE):
            model.dropout = None  # random, and left out of ours
        return theirs

    with quiet(), tempfile.TemporaryDirectory() as folder:
        for name in _FILES:
            if name in files:
                Path(folder, name).write_bytes(files[name])
        return attempt(lambda: load(folder))


def attempt(call: Callable[[], Any]) -> Any:
    """What it returns; None if it fails, in whatever way."""
    try:
        return call()
    except BaseException as error:
        if not is_failure(error):
            raise
        return None
