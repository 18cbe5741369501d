# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a bundle has its chat template: the files that Hugging Face checkpoints bring."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from moe_mobile.base.special_tokens import CONFIG, SPECIAL, naming_files, special_tokens
from moe_mobile.errors import BundleInvalidError, UsageError
from moe_mobile.text.chat import ChatTemplate
from moe_mobile.text.files import parse_object, read_files

_TEMPLATE = "chat_template.jinja"
_WITH_TOOLS = "additional_chat_templates/tool_use.jinja"
_AGAIN = "Export again from a complete checkpoint"


def load_chat_template(bundle: pathlib.Path) -> ChatTemplate:
    """A bundle's chat template.

    Raises UsageError if the model has none, BundleInvalidError for a broken one, and the bundle
    reader's errors.
    """
    files = read_files(bundle, [_TEMPLATE, _WITH_TOOLS, CONFIG, SPECIAL])
    config = parse_object(bundle, CONFIG, files)
    tokens = special_tokens(*(parse_object(bundle, name, files) for name in naming_files(config)))
    for name, source in (
        (_TEMPLATE, _template_text(bundle, _TEMPLATE, files)),
        (CONFIG, config.get("chat_template")),
    ):
        if source is not None:
            default, with_tools = _named(source, bundle / name)
            file = with_tools_file = str(bundle / name)
            if (other := _template_text(bundle, _WITH_TOOLS, files)) is not None:
                with_tools, with_tools_file = other, str(bundle / _WITH_TOOLS)
            return ChatTemplate(default, tokens, file, with_tools, with_tools_file)
    raise UsageError(
        "this model has no chat template",
        file=bundle,
        remedy="Give the prompt as text; models tuned for chat have a template",
    )


def _template_text(bundle: pathlib.Path, name: str, files: Mapping[str, bytes]) -> str | None:
    try:
        return files[name].decode() if name in files else None
    except UnicodeDecodeError as error:
        raise BundleInvalidError(
            f"is not UTF-8: {error.reason} at byte {error.start}",
            file=bundle / name,
            remedy=_AGAIN,
        ) from None


def _named(source: Any, file: pathlib.Path) -> tuple[str, str | None]:
    """The template to use, and the one for messages with tools: a file may have several, as a list
    of names and templates."""
    with_tools = None
    if isinstance(source, list):
        named = {
            entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)
        }
        source, with_tools = named.get("default"), named.get("tool_use")
    if not isinstance(source, str):
        raise BundleInvalidError("has no default chat template", file=file, remedy=_AGAIN)
    return source, with_tools if isinstance(with_tools, str) else None
