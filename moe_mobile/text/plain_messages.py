# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Chat messages in the plainest form: what a template that fails may not have taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moe_mobile.base.json_text import json_text

Messages = Sequence[Mapping[str, Any]]


def with_texts(messages: Messages) -> Messages:
    """The content of each message is a text."""
    return [{**message, "content": _text(message.get("content", ""))} for message in messages]


def with_texts_and_objects(messages: Messages) -> Messages:
    """Also, tool calls whose arguments are a JSON text, as in OpenAI's requests, have its object
    instead."""
    return [
        {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in with_texts(messages)
    ]


def is_cause(
    change: Callable[[Messages], Messages], messages: Messages, write: Callable[[Messages], object]
) -> bool:
    """Whether ``write`` takes the messages once they are changed."""
    changed = change(messages)
    if changed == messages:
        return False
    try:
        write(changed)
    except Exception:  # whatever a program can fail with
        return False
    return True


def _with_object(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with_object(call["function"])}
    if not isinstance(call.get("arguments"), str):
        return call
    try:
        arguments = json.loads(call["arguments"])
    except (ValueError, RecursionError):
        arguments = {}
    return {**call, "arguments": arguments if isinstance(arguments, dict) else {}}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json_text(content)
