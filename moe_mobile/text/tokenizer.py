# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle's tokenizer and chat template, each loaded when it is first needed."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moe_mobile.base.tokenizer import TOKENIZER, TextTokenizer, parse_tokenizer
from moe_mobile.errors import UsageError
from moe_mobile.text.detokenizer import Detokenizer
from moe_mobile.text.files import read_files
from moe_mobile.text.surrogates import require_text

if TYPE_CHECKING:
    from moe_mobile.text.chat import ChatTemplate, Message


def load_tokenizer(bundle: pathlib.Path) -> TextTokenizer:
    """A bundle's tokenizer. Raises UsageError without one, and the bundle reader's errors."""
    from moe_mobile.bundle import read_manifest

    path = bundle / TOKENIZER
    data = read_files(bundle, [TOKENIZER]).get(TOKENIZER)
    if data is None:
        raise UsageError(
            "this bundle has no tokenizer",
            file=path,
            remedy="Give `token_ids` instead of text, or export again from a folder with "
            "tokenizer.json",
        )
    tokenizer = parse_tokenizer(data, path)
    tokenizer.require_rows(read_manifest(bundle).model.vocab_size)
    return tokenizer


class BundleText:
    """Turns prompts into token ids and new tokens into text, with what a bundle brings."""

    def __init__(self, bundle: str | os.PathLike[str]) -> None:
        # The working folder may change before the files are read.
        self._bundle = pathlib.Path(bundle).absolute()

    @functools.cached_property
    def tokenizer(self) -> TextTokenizer:
        """Raises as :func:`load_tokenizer`."""
        return load_tokenizer(self._bundle)

    @functools.cached_property
    def template(self) -> ChatTemplate:
        """Raises as :func:`moe_mobile.text.template_files.load_chat_template`."""
        from moe_mobile.text.template_files import load_chat_template

        return load_chat_template(self._bundle)

    @functools.cached_property
    def _context_length(self) -> int:
        from moe_mobile.bundle import read_manifest

        return read_manifest(self._bundle).model.context_length

    def encode(
        self, prompt: str | Sequence[Message], values: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a text, or of chat messages in the model's own format.

        ``values``: for the chat template, as :meth:`ChatTemplate.render` takes them.

        Raises what loading the files does, BundleInvalidError if the tokenizer fails, and
        UsageError for half a surrogate pair, for more tokens than the model takes, and for messages
        that are not as :meth:`ChatTemplate.render` takes them.
        """
        is_chat = not isinstance(prompt, str)
        if isinstance(prompt, str):
            # A byte order mark is no text, as in files.
            text = prompt.removeprefix("\ufeff")
        else:
            text = self.template.render(prompt, values)
        require_text(text)
        most = self._context_length
        # The template writes the special tokens itself.
        ids = self.tokenizer.ids(text, most, add_special_tokens=not is_chat)
        if len(ids) > most:
            raise UsageError(
                f"more than {most} tokens do not fit in a context of {most}",
                setting="prompt",
                remedy="Shorten the prompt: the model allows no more",
            )
        return ids

    def stream(self, prompt_ids: Sequence[int]) -> Detokenizer:
        """For the tokens that follow a prompt."""
        return Detokenizer(self.tokenizer, prompt_ids)
