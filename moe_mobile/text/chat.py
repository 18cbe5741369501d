# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Chat messages written the way a model was trained to read them.

Hugging Face checkpoints bring that format as a Jinja template, which runs in a sandbox
(:mod:`moe_mobile.text.sandbox`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from moe_mobile.base.json_text import json_text
from moe_mobile.errors import BundleInvalidError, MoeMobileError, UsageError
from moe_mobile.text import sandbox
from moe_mobile.text.budget import TooMuchError
from moe_mobile.text.lengths import MOST, require_short
from moe_mobile.text.plain_messages import is_cause, with_texts, with_texts_and_objects
from moe_mobile.text.surrogates import require_texts

Message = Mapping[str, Any]
"""``{"role": "user", "content": "..."}``, and further members that the model's template reads. The
content may be a list of texts: ``[{"type": "text", "text": "..."}]``. That of a tool may be any
JSON."""

TEMPLATE_KWARGS = "chat_template_kwargs"
"""The setting that has further values for the template, by the name that chat servers give it."""

# Where a model's thoughts are in its message. Templates read the first; the others are older names.
_REASONING = ("reasoning_content", "thinking", "reasoning")

# What a template may not have taken, if it does once the messages are changed so.
_NOT_TAKEN = (
    (with_texts, "takes no content but texts", "Give the content of each message as one text"),
    (
        with_texts_and_objects,
        "takes the arguments of tool calls as objects only",
        'Give `arguments` as an object like {"city": "Paris"}, not as a JSON text',
    ),
)
# What the template reads in a list of objects, with an example of one. As in transformers.
_LISTS = {
    "tools": '{"type": "function", "function": {"name": "...", "parameters": {}}}',
    "documents": '{"title": "...", "text": "..."}',
}


class ChatTemplate:
    """A model's chat format.

    Args:
        source: the template, in Jinja.
        tokens: special tokens by name, such as ``bos_token``; the template may write them.
        file: where it comes from, for errors.
        with_tools: another template, for messages with tools.
        with_tools_file: where that one comes from, if not from the same file.

    Raises BundleInvalidError if it is not a template.
    """

    def __init__(
        self,
        source: str,
        tokens: Mapping[str, str],
        file: str,
        with_tools: str | None = None,
        with_tools_file: str | None = None,
    ) -> None:
        self._tokens = dict(tokens)
        self._default = _parsed(source, file), file
        self._with_tools = self._default
        if with_tools is not None:
            file = with_tools_file or file
            self._with_tools = _parsed(with_tools, file), file

    def render(
        self,
        messages: Sequence[Message],
        values: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """The conversation as text.

        Args:
            messages: each with a ``role`` and a ``content``; other members go to the template. So
                does a content that is no text, which some templates do not take.
            values: what the template reads besides, by name: ``tools``, a list of JSON schemas,
                ``documents``, a list of objects too, and options of the model's own, such as
                Qwen3's ``enable_thinking``.
            add_generation_prompt: end with what begins the model's answer.

        Raises:
            UsageError: messages or values are malformed, or not what this model's template takes.
            BundleInvalidError: the template fails, or does what templates may not do.
        """
        plain = _plain(messages)
        more = {"tools": None, "documents": None, **_plain_values(values or {})}
        _require_short((plain, more))
        template, file = self._default if more["tools"] is None else self._with_tools
        data = {**self._tokens, **more, "add_generation_prompt": add_generation_prompt}

        def write(messages: Sequence[Message]) -> str:
            return sandbox.render(template, {**data, "messages": messages})

        try:
            return write(plain)
        except sandbox.RaisedError as error:
            raise UsageError(
                f"this model's chat template refuses the messages: {error}",
                setting="prompt",
                remedy="Change their roles or their order",
            ) from None
        except SecurityError as error:
            raise _invalid(file, "does what a template may not do", error) from error
        except Exception as error:  # whatever a program can fail with
            for change, cause, remedy in _NOT_TAKEN:
                if is_cause(change, plain, write):
                    raise UsageError(
                        f"this model's chat template {cause}: {_words(error)}",
                        setting="prompt",
                        remedy=remedy,
                    ) from None
            raise _invalid(file, "fails", error) from error


def _require_short(given: Any) -> None:
    """Raises UsageError for more than templates may write: they are not to blame for that."""
    try:
        require_short(given, "it")
    except TooMuchError:
        raise UsageError(
            f"the messages are longer than {MOST} characters",
            setting="prompt",
            remedy="Shorten them: no model takes that much",
        ) from None


def _parsed(source: str, file: str) -> jinja2.Template:
    try:
        return sandbox.parse(source)
    except (jinja2.TemplateError, RecursionError, SyntaxError, TooMuchError, ValueError) as error:
        raise _invalid(file, "cannot be read", error) from error


def _invalid(file: str, how: str, error: Exception) -> MoeMobileError:
    return BundleInvalidError(
        f"the chat template {how}: {_words(error)}",
        file=file,
        remedy="Give the prompt as text, or export again with another template",
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Copies that are JSON data: methods of richer objects are out of a template's reach."""
    remedy = 'Write each message like {"role": "user", "content": "Hello"}'
    if not messages:
        raise UsageError("there are no messages", setting="prompt", remedy=remedy)
    plain = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UsageError(f"message {number} is not a mapping", setting="prompt", remedy=remedy)
        # As transformers does: what is null is not there.
        members = {name: value for name, value in message.items() if value is not None}
        parts = members.get("content")
        is_found = members.get("role") == "tool" and parts is not None  # JSON: checked below
        if not is_found and isinstance(parts, list) and not all(map(_is_text_part, parts)):
            raise UsageError(
                f"not all parts of message {number}'s content are texts",
                setting="prompt",
                remedy='Write each part like {"type": "text", "text": "Hello"}, or the content as '
                "one text",
            )
        # A message that calls tools need not say anything.
        may_lack = "tool_calls" in members or is_found or isinstance(parts, list)
        for name in ("role",) if may_lack else ("role", "content"):
            if not isinstance(members.get(name), str):
                raise UsageError(
                    f"message {number} has no text {name!r}", setting="prompt", remedy=remedy
                )
        thoughts = next((members[name] for name in _REASONING if name in members), None)
        if thoughts is not None:
            members = {"thinking": thoughts, **members, "reasoning_content": thoughts}
        plain.append(_json_data(members, f"message {number}", "prompt", remedy))
    return plain


def _json_data(members: dict[str, Any], what: str, setting: str, remedy: str) -> dict[str, Any]:
    """A copy. Raises UsageError unless it is JSON data whose texts a tokenizer takes."""
    try:
        plain: dict[str, Any] = json.loads(json_text(members))
        written = json_text(plain, ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise UsageError(f"{what} is not JSON data", setting=setting, remedy=remedy) from None
    require_texts(written, what, setting)
    return plain


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    remedy = 'Give an object like {"enable_thinking": false}'
    for name in values:
        if not isinstance(name, str) or name in ("messages", "add_generation_prompt"):
            raise UsageError(
                f"{name!r} cannot be set", setting=TEMPLATE_KWARGS, remedy="Leave it out"
            )
    plain = _json_data(dict(values), "it", TEMPLATE_KWARGS, remedy)
    for name, example in _LISTS.items():
        value = plain.get(name)
        is_list = isinstance(value, list) and all(isinstance(one, dict) for one in value)
        if value is not None and not is_list:
            raise UsageError(
                f"{name!r} is not a list of objects",
                setting=TEMPLATE_KWARGS,
                remedy=f'Write it like {{"{name}": [{example}]}}',
            )
    return plain
