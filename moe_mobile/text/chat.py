# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Chat messages written the way a model was trained to read them.

Hugging Face checkpoints bring that format as a Jinja template. A template is a program, written by
the maker of the checkpoint, so it runs in Jinja's sandbox: it sees plain data, reaches no
Python internals and changes nothing. Turns of loops, calls, the output, and what operators, methods
and filters give are bounded (:mod:`moe_mobile.text.lengths`), each for itself: time and memory as a
whole are not.
"""

from __future__ import annotations

import contextvars
import datetime
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Never

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moe_mobile.base.json_field import too_many_values
from moe_mobile.errors import BundleInvalidError, MoeMobileError, UsageError
from moe_mobile.text import lengths
from moe_mobile.text.files import read_files
from moe_mobile.text.lengths import TooMuchError
from moe_mobile.text.surrogates import require_texts

Message = Mapping[str, Any]
"""``{"role": "user", "content": "..."}``, and further members that the model's template reads. The
content may be a list of texts: ``[{"type": "text", "text": "..."}]``."""

TEMPLATE_KWARGS = "chat_template_kwargs"
"""The setting that has further values for the template, by the name that chat servers give it."""

_TEMPLATE = "chat_template.jinja"
_WITH_TOOLS = "additional_chat_templates/tool_use.jinja"
_LEGACY = "chat_template.json"
_CONFIG = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
# Where a model's thoughts are in its message. Templates read the first; the others are older names.
_REASONING = ("reasoning_content", "thinking", "reasoning")
_AGAIN = "Export again from a complete checkpoint"
_MAX_FORM = 1000
_MAX_STEPS = 1_000_000
"""Turns of loops, calls, and numbers of all ``range``, together in one rendering."""


class _Raised(Exception):
    """The template's own ``raise_exception``."""


class _Steps:
    """What is left of one rendering's steps."""

    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def take(self, count: int = 1) -> None:
        self._left -= count
        if self._left < 0:
            raise TooMuchError(f"it takes more than {_MAX_STEPS} steps")


_steps: contextvars.ContextVar[_Steps] = contextvars.ContextVar("_steps")
"""Those of the rendering that runs in this thread: templates cannot reach it."""


class _CountedLoops(jinja2.compiler.CodeGenerator):
    """Each turn of a loop makes a call, and calls are counted. So does each element that a loop's
    own condition is asked about."""

    def visit_For(self, node: jinja2.nodes.For, frame: jinja2.compiler.Frame) -> None:
        node.body.insert(0, jinja2.nodes.ExprStmt(_turn(node.lineno), lineno=node.lineno))
        if node.test is not None:
            node.test = jinja2.nodes.And(_turn(node.lineno), node.test, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        join = "str_join"
        if frame.eval_ctx.volatile:
            join = "(markup_join if context.eval_ctx.volatile else str_join)"
        elif frame.eval_ctx.autoescape:
            join = "markup_join"
        self.write(f"environment.joined({join}, (")
        for one in node.nodes:
            self.visit(one, frame)
            self.write(", ")
        self.write("))")


def _turn(line: int) -> jinja2.nodes.Call:
    turn = jinja2.nodes.EnvironmentAttribute("turn", lineno=line)
    return jinja2.nodes.Call(turn, [], [], None, None, lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which counts steps and refuses huge results."""

    code_generator_class = _CountedLoops
    intercepted_binops = frozenset(("*", "**", "+", "%"))
    concat = staticmethod(lengths.concat)
    joined = staticmethod(lengths.joined)

    def call(
        self, context: jinja2.runtime.Context, called: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        _steps.get().take()
        args = lengths.check_call(called, args, kwargs)
        return super().call(context, called, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        return lengths.bounded_format(self, value)

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        lengths.check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    @staticmethod
    def turn() -> bool:
        """What a turn of a loop calls."""
        return True


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}`` marks the model's answers for training: its body
    is written as it is."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


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
                does a content that is a list of texts, which some templates do not take.
            values: what the template reads besides, by name: ``tools``, a list of JSON schemas, and
                options of the model's own, such as Qwen3's ``enable_thinking``.
            add_generation_prompt: end with what begins the model's answer.

        Raises:
            UsageError: messages are malformed, or not what this model's template takes.
            BundleInvalidError: the template fails, or does what templates may not do.
        """
        plain = _plain(messages)
        more = {"tools": None, "documents": None, **_plain_values(values or {})}
        template, file = self._default if more["tools"] is None else self._with_tools
        pieces: list[str] = []
        length = 0
        before = _steps.set(_Steps())
        try:
            for piece in template.generate(
                {
                    **self._tokens,
                    **more,
                    "messages": plain,
                    "add_generation_prompt": add_generation_prompt,
                }
            ):
                pieces.append(piece)
                length += len(piece)
                if length > lengths.MOST:
                    raise TooMuchError(f"it writes more than {lengths.MOST} characters")
        except _Raised as error:
            raise UsageError(
                f"this model's chat template refuses the messages: {error}",
                setting="prompt",
                remedy="Change their roles or their order",
            ) from None
        except SecurityError as error:
            raise _invalid(file, "does what a template may not do", error) from error
        except Exception as error:  # whatever a program can fail with
            if isinstance(error, TypeError | jinja2.UndefinedError) and _has_parts(plain):
                raise UsageError(
                    f"this model's chat template takes no list of parts: {_words(error)}",
                    setting="prompt",
                    remedy="Give the content of each message as one text",
                ) from None
            raise _invalid(file, "fails", error) from error
        finally:
            _steps.reset(before)
        return "".join(pieces)


def _parsed(source: str, file: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # nothing is computed before its steps are counted
        finalize=_checked_output,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters |= lengths.bounded_filters()
    environment.filters |= {"tojson": _to_json, "batch": _batch, "slice": _slice}
    del environment.filters["urlize"]  # writes whole texts once for each address
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    environment.globals["range"] = _range
    del environment.globals["lipsum"]  # writes as much text as it is asked for
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
        raise _invalid(file, "cannot be read", error) from error


def _invalid(file: str, how: str, error: Exception) -> MoeMobileError:
    return BundleInvalidError(
        f"the chat template {how}: {_words(error)}",
        file=file,
        remedy="Give the prompt as text, or export again with another template",
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def load_chat_template(bundle: pathlib.Path) -> ChatTemplate:
    """A bundle's chat template.

    Raises UsageError if the model has none, BundleInvalidError for a broken one, and the bundle
    reader's errors.
    """
    files = read_files(bundle, [_TEMPLATE, _WITH_TOOLS, _LEGACY, _CONFIG, _SPECIAL])
    config = _object(bundle, _CONFIG, files)
    tokens = _special_tokens({**_object(bundle, _SPECIAL, files), **config})
    for name, source in (
        (_TEMPLATE, _template_text(bundle, _TEMPLATE, files)),
        (_LEGACY, _object(bundle, _LEGACY, files).get("chat_template")),
        (_CONFIG, config.get("chat_template")),
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


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _TOKENS:
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found


def _object(bundle: pathlib.Path, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    if name not in files:
        return {}
    if too_many_values(files[name]):
        raise BundleInvalidError("holds too many values", file=bundle / name, remedy=_AGAIN)
    try:
        value = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise BundleInvalidError(
            f"is not valid JSON: {error}", file=bundle / name, remedy=_AGAIN
        ) from error
    if not isinstance(value, dict):
        raise BundleInvalidError("must hold a JSON object", file=bundle / name, remedy=_AGAIN)
    return value


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
        if isinstance(parts, list) and not all(map(_is_text_part, parts)):
            raise UsageError(
                f"not all parts of message {number}'s content are texts",
                setting="prompt",
                remedy='Write each part like {"type": "text", "text": "Hello"}, or the content as '
                "one text",
            )
        # A message that calls tools need not say anything.
        may_lack = "tool_calls" in members or isinstance(parts, list)
        for name in ("role",) if may_lack else ("role", "content"):
            if not isinstance(members.get(name), str):
                raise UsageError(
                    f"message {number} has no text {name!r}", setting="prompt", remedy=remedy
                )
        thoughts = next((members[name] for name in _REASONING if name in members), None)
        if thoughts is not None:
            members = {"thinking": thoughts, **members, "reasoning_content": thoughts}
        try:
            plain.append(json.loads(json.dumps(members)))
        except (TypeError, ValueError, RecursionError):
            raise UsageError(
                f"message {number} is not JSON data", setting="prompt", remedy=remedy
            ) from None
        require_texts(plain[-1], f"message {number}", "prompt")
    return plain


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )


def _has_parts(messages: Sequence[Message]) -> bool:
    return any(isinstance(message.get("content"), list) for message in messages)


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    remedy = 'Give an object like {"enable_thinking": false}'
    for name in values:
        if not isinstance(name, str) or name in ("messages", "add_generation_prompt"):
            raise UsageError(
                f"{name!r} cannot be set", setting=TEMPLATE_KWARGS, remedy="Leave it out"
            )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
    except (TypeError, ValueError, RecursionError):
        raise UsageError("it is not JSON data", setting=TEMPLATE_KWARGS, remedy=remedy) from None
    require_texts(plain, "it", TEMPLATE_KWARGS)
    return plain


def _range(*bounds: int) -> range:
    """``range`` for templates. Its numbers are steps, also if a filter takes them."""
    numbers = range(*bounds)
    _steps.get().take(len(numbers))
    return numbers


def _raise(message: object) -> Never:
    raise _Raised(str(message))


def _batch(value: Any, linecount: int, fill_with: Any = None) -> Any:
    """Jinja's own filter fills lists of any length."""
    _steps.get().take(linecount)
    return jinja2.filters.do_batch(value, linecount, fill_with)


def _slice(value: Any, slices: int, fill_with: Any = None) -> Any:
    """Jinja's own filter makes any number of lists."""
    _steps.get().take(slices)
    return jinja2.filters.sync_do_slice(value, slices, fill_with)


@jinja2.pass_context
def _checked_output(context: jinja2.runtime.Context, value: Any) -> Any:
    """What is about to be written, unless that would be huge."""
    lengths.require_short(value, "an output")
    return value


def _now(form: str) -> str:
    if len(form) > _MAX_FORM:
        raise TooMuchError("strftime_now has a huge format")
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML."""
    lengths.check_json(value, indent)
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
