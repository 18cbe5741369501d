# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokens that transformers adds to ``tokenizer.json`` from the files next to it.

A bundle's texts go through ``tokenizer.json`` alone. If it lacks one of those tokens, the ids would
be others than the model's own.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from moe_mobile.base.tokenizer import TOKENIZER
from moe_mobile.errors import CheckpointError, UnsupportedError
from moe_mobile.model.config import JsonObject, read_json_object

_CONFIG = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
_ADDED = "added_tokens.json"
_ONE = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_SEVERAL = (
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
)


def require_all_tokens(folder: Path, known: Container[str]) -> None:
    """Raises unless ``tokenizer.json``, whose tokens are ``known``, has all that are named.

    Raises:
        CheckpointError: a file next to it names another token, or cannot be read.
        UnsupportedError: a setting that the tokenizer's library does not have.
        IoError: a file that cannot be read.
    """
    for name in (_CONFIG, _SPECIAL, _ADDED):
        file = folder / name
        if not file.exists():
            continue
        members = read_json_object(file)
        if name == _CONFIG and members.get("split_special_tokens") is True:
            raise UnsupportedError(
                "split_special_tokens is not supported: special tokens in texts are kept whole",
                file=file,
                remedy="Set it to false if the model can do with that",
            )
        for token in members if name == _ADDED else _named(members):
            if token not in known:
                raise CheckpointError(
                    f"it names the token {token!r}, which {TOKENIZER} lacks: transformers would "
                    "add it, and texts would get other ids",
                    file=file,
                    remedy="Load the tokenizer with transformers and save it again "
                    "(AutoTokenizer.from_pretrained, save_pretrained), or take the token out",
                )


def _named(members: JsonObject) -> Iterator[str]:
    for name in _ONE:
        yield from _contents([members.get(name)])
    for name in _SEVERAL:
        value = members.get(name)
        if isinstance(value, dict):
            yield from _contents(list(value.values()))
        elif isinstance(value, list):
            yield from _contents(value)


def _contents(values: list[Any]) -> Iterator[str]:
    """The texts of tokens, each a text or an object."""
    for value in values:
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            yield text
