# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Jinja for templates that came with a model.

A template is a program, written by the maker of the checkpoint: it sees plain data, reaches no
Python internals and changes nothing. What a single operation makes is bounded
(:mod:`moe_mobile.text.lengths`), and so are the steps, bytes and time of all together
(:mod:`moe_mobile.text.budget`).
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Never

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moe_mobile.text import budget, lengths
from moe_mobile.text.budget import TooMuchError
from moe_mobile.text.counted_code import CountedCode

_MAX_FORM = 1000
_MAX_SOURCE = 1 << 18
"""Characters of a template: ten times the longest that are published."""
_BYTES_OF_PIECE = 64
"""Of an argument or output, beside what it refers to."""
_LONGEST_ESCAPE = len("&quot;")


class RaisedError(Exception):
    """The template's own ``raise_exception``."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which counts steps and refuses huge results."""

    code_generator_class = CountedCode
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    intercepted_unops = frozenset(ImmutableSandboxedEnvironment.default_unop_table)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """What a block or macro has written, as one text."""
        text: str = budget.made(lengths.concat(pieces))
        return text

    @staticmethod
    def joined(join: Callable[[Iterable[Any]], str], pieces: Sequence[Any]) -> str:
        """The result of ``~``."""
        text: str = budget.made(lengths.joined(join, pieces))
        return text

    @staticmethod
    def turn() -> bool:
        """What a turn of a loop calls."""
        return True

    @staticmethod
    def literal(value: Any) -> Any:
        """A list, tuple or mapping that is written out."""
        if isinstance(value, tuple):  # as a key, all that it holds is read
            lengths.require_short(value, "a tuple")
        return budget.made(value)

    sliced = staticmethod(budget.made)

    @staticmethod
    def operand(value: Any) -> Any:
        """What is about to be compared."""
        lengths.require_short(value, "a comparison")
        return budget.read(value)

    @staticmethod
    def writes(count: int) -> None:
        """So many outputs come."""
        budget.spend(count * _BYTES_OF_PIECE)

    def call(
        self, context: jinja2.runtime.Context, called: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        budget.step()
        budget.spend(_BYTES_OF_PIECE * (len(args) + len(kwargs)))
        budget.read(getattr(called, "__self__", None))
        args = lengths.check_call(called, args, kwargs)
        return budget.made_with_items(super().call(context, called, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        return lengths.bounded_format(self, value)

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        lengths.check_operator(operator, left, right)
        return budget.made(super().call_binop(context, operator, left, right))

    def call_unop(self, context: jinja2.runtime.Context, operator: str, arg: Any) -> Any:
        return budget.made(super().call_unop(context, operator, arg))


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}`` marks the model's answers for training: its body
    is written as it is."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def parse(source: str) -> jinja2.Template:
    """The template of this text. Raises what Jinja and Python raise for text that is none, and
    TooMuchError for a long one."""
    if len(source) > _MAX_SOURCE:
        raise TooMuchError(f"it is longer than {_MAX_SOURCE >> 10} KiB")
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
    del environment.filters["pprint"]  # takes microseconds for each element
    for name, function in environment.filters.items():
        environment.filters[name] = _counted(function)
    environment.tests |= lengths.bounded_tests()
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
    with budget.rendering():
        for piece in template.generate(values):
            pieces.append(piece)
            length += len(piece)
            if length > lengths.MOST:
                raise TooMuchError(f"it writes more than {lengths.MOST} characters")
    return "".join(pieces)


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is a step, and whose result is counted."""
    place = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)  # also what says that it takes the environment
    def counted(*args: Any, **more: Any) -> Any:
        budget.step()
        budget.read(args[place] if len(args) > place else None)
        result = function(*args, **more)
        if isinstance(result, Iterator):
            return budget.counted(result)
        return budget.made_with_items(result)

    return counted


def _range(*bounds: int) -> range:
    """``range`` for templates. Its numbers are steps, also if a filter takes them."""
    numbers = range(*bounds)
    budget.step(len(numbers))
    return numbers


def _raise(message: object) -> Never:
    raise RaisedError(str(message))


def _batch(value: Any, linecount: int, fill_with: Any = None) -> Any:
    """Jinja's own filter fills lists of any length."""
    budget.step(linecount)
    return jinja2.filters.do_batch(value, linecount, fill_with)


def _slice(value: Any, slices: int, fill_with: Any = None) -> Any:
    """Jinja's own filter makes any number of lists."""
    budget.step(slices)
    return jinja2.filters.sync_do_slice(value, slices, fill_with)


@jinja2.pass_context
def _checked_output(context: jinja2.runtime.Context, value: Any) -> Any:
    """What is about to be written, unless that would be huge."""
    lengths.require_short(value, "an output")
    if not isinstance(value, str):
        value = budget.made(str(value))
    if context.eval_ctx.autoescape:
        budget.spend(_LONGEST_ESCAPE * len(value))
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
