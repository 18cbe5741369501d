# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Jinja for templates that came with a model.

A template is a program, written by the maker of the checkpoint: it sees plain data, reaches no
Python internals and changes nothing. Turns of loops, calls, the output, and what operators, methods
and filters give are bounded (:mod:`moe_mobile.text.lengths`), each for itself: time and memory as a
whole are not.
"""

from __future__ import annotations

import contextvars
import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any, Never

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moe_mobile.text import lengths
from moe_mobile.text.lengths import TooMuchError

_MAX_FORM = 1000
_MAX_STEPS = 1_000_000
"""Turns of loops, calls, and numbers of all ``range``, together in one rendering."""


class RaisedError(Exception):
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


def parse(source: str) -> jinja2.Template:
    """The template of this text. Raises what Jinja and Python raise for text that is none."""
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
    return environment.from_string(source)


def render(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """What a template of :func:`parse` writes.

    Raises RaisedError if it refuses the values, jinja2's SecurityError for what it may not do,
    TooMuchError, and whatever else a program can fail with.
    """
    pieces: list[str] = []
    length = 0
    before = _steps.set(_Steps())
    try:
        for piece in template.generate(values):
            pieces.append(piece)
            length += len(piece)
            if length > lengths.MOST:
                raise TooMuchError(f"it writes more than {lengths.MOST} characters")
    finally:
        _steps.reset(before)
    return "".join(pieces)


def _range(*bounds: int) -> range:
    """``range`` for templates. Its numbers are steps, also if a filter takes them."""
    numbers = range(*bounds)
    _steps.get().take(len(numbers))
    return numbers


def _raise(message: object) -> Never:
    raise RaisedError(str(message))


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
