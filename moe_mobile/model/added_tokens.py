# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokens that transformers adds to ``tokenizer.json``, or changes, by the files next to it.

A bundle's texts go through ``tokenizer.json`` alone. If transformers found other tokens in texts,
or left out others when it decodes, ids and texts would be others than the model's own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from moe_mobile.base.special_tokens import CONFIG, DECODER, naming_files
from moe_mobile.base.tokenizer import TOKENIZER, TextTokenizer
from moe_mobile.errors import CheckpointError, UnsupportedError
from moe_mobile.model.config import JsonObject, read_json_object
from moe_mobile.model.own_tokenizer import SAVE_AGAIN

if TYPE_CHECKING:
    from tokenizers import AddedToken

_ADDED = "added_tokens.json"
_SEVERAL = (
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
)
# How a token is found in texts, and whether decoding leaves it out.
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


def require_same_tokens(folder: Path, tokenizer: TextTokenizer) -> set[str]:
    """Raises unless transformers finds the tokens in texts that ``tokenizer.json`` does.

    Returns those that it makes special, so that decoding leaves them out: see ``with_special``.

    Raises:
        CheckpointError: a file next to it adds or changes a token, or cannot be read.
        UnsupportedError: a setting that the tokenizer's library does not have.
        IoError: a file that cannot be read.
    """
    config = _read(folder / CONFIG)
    _refuse_settings(config, tokenizer, folder / CONFIG)
    own = _OwnTokens(tokenizer)
    if DECODER in config:
        # transformers does not read added_tokens.json then.
        for token in _objects(config[DECODER], folder / CONFIG):
            own.require(token.content, folder / CONFIG, token)
    else:
        for content, number in _read(folder / _ADDED).items():
            own.require(content, folder / _ADDED, number)
    for name in naming_files(config):
        for content in _named(_read(folder / name)):
            own.require_special(content, folder / name)
    return own.made_special


def with_special(data: bytes, contents: Collection[str]) -> bytes:
    """A ``tokenizer.json`` in which these of its added tokens are special."""
    if not contents:
        return data
    members = json.loads(data)
    for token in members["added_tokens"]:
        token["special"] |= token["content"] in contents
    return json.dumps(members, ensure_ascii=False).encode()


class _OwnTokens:
    """The tokens of ``tokenizer.json`` that are found in texts before these are split."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        added = tokenizer.get_added_tokens_decoder()
        self._numbers = {token.content: number for number, token in added.items()}
        self._tokens = {token.content: token for token in added.values()}
        self._vocabulary = tokenizer.get_vocab()
        # Without a normalizer this flag changes nothing.
        self._flags = [flag for flag in _FLAGS if tokenizer.normalizes or flag != "normalized"]
        self.made_special: set[str] = set()

    def require(self, content: str, file: Path, wanted: AddedToken | int) -> None:
        """Raises a CheckpointError unless it is one of them, with the same id, or the same flags.
        It may become special."""
        own = self._tokens.get(content) or self._refuse(content, file)
        if isinstance(wanted, int):
            changed = [] if wanted == self._numbers[content] else ["id"]
        else:
            changed = [flag for flag in self._flags if getattr(wanted, flag) != getattr(own, flag)]
            if wanted.special and not own.special:
                self._make_special(own)
                changed.remove("special")
        if changed:
            _refuse(f"gives the token {content!r} another {changed[0]!r} than {TOKENIZER}", file)

    def require_special(self, content: str, file: Path) -> None:
        """Raises a CheckpointError unless it is one of them."""
        self._make_special(self._tokens.get(content) or self._refuse(content, file))

    def _make_special(self, own: AddedToken) -> None:
        if not own.special:
            self.made_special.add(own.content)

    def _refuse(self, content: str, file: Path) -> NoReturn:
        ordinary = f"is an ordinary one in {TOKENIZER}"
        which = ordinary if content in self._vocabulary else f"{TOKENIZER} lacks"
        _refuse(f"names the token {content!r}, which {which}", file)


def _refuse(cause: str, file: Path) -> NoReturn:
    raise CheckpointError(
        f"it {cause}: with transformers, texts would get other ids, or ids another text",
        file=file,
        remedy=f"{SAVE_AGAIN}, or take the token out",
    )


def _refuse_settings(config: JsonObject, tokenizer: TextTokenizer, file: Path) -> None:
    if config.get("split_special_tokens", False) is not False:
        raise UnsupportedError(
            "split_special_tokens is not supported: special tokens in texts are kept whole",
            file=file,
            remedy="Set it to false if the model can do with that",
        )
    clean = "clean_up_tokenization_spaces"
    forced = f"{clean}_for_bpe_even_though_it_will_corrupt_output"
    if config.get(clean) and (config.get(forced) or not tokenizer.is_bpe):
        raise UnsupportedError(
            f"{clean} is not supported: texts keep their spaces",
            file=file,
            remedy="Set it to false if the model can do with that",
        )


def _read(file: Path) -> JsonObject:
    """The members of a file; none if it does not exist."""
    return read_json_object(file) if file.exists() else {}


def _objects(value: object, file: Path) -> Iterator[AddedToken]:
    from tokenizers import AddedToken

    try:
        for members in dict(value).values():  # type: ignore[call-overload]
            yield AddedToken(**members)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{DECODER} does not hold tokens: {error}",
            file=file,
            remedy="Take it out if tokenizer.json has its tokens",
        ) from error


def _named(members: JsonObject) -> Iterator[str]:
    """Special tokens: those with a role, which models may have of their own, and others."""
    for name, value in members.items():
        if name.endswith("_token"):
            yield from _contents([value])
        elif name in _SEVERAL and isinstance(value, dict):
            yield from _contents(list(value.values()))
        elif name in _SEVERAL and isinstance(value, list):
            yield from _contents(value)


def _contents(values: list[Any]) -> Iterator[str]:
    """The texts of tokens, each a text or an object."""
    for value in values:
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            yield text
