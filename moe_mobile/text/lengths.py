# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How long a text or list gets, found before a chat template makes it.

Operators, methods and filters that make more than they are given are checked here; what they may
give is :data:`MOST`. All others give about as much as they take.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    KeysView,
    Mapping,
    Sequence,
    Sized,
    ValuesView,
)
from typing import Any

import jinja2
import jinja2.filters
import jinja2.tests
import jinja2.utils
from jinja2.sandbox import SandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup

from moe_mobile.text.budget import TooMuchError, read

MOST = 1 << 22
"""Characters: more than any context takes."""
_MOST_ITEMS = 1 << 20
"""Elements of a list: each may take 90 bytes."""

_MOST_BITS = 1 << 16
"""Of a product or power of whole numbers."""
_MOST_INDENT = 64
_MOST_PRECISION = 400  # of a float, in decimal digits
_NUMBERS = re.compile(r"[0-9]+")
# A conversion of printf: its width and precision.
_CONVERSION = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?")
_SEQUENCES = (str, bytes, list, tuple)


def require(length: Any, what: str) -> None:
    """Raises TooMuchError for a length beyond :data:`MOST`."""
    if isinstance(length, int) and length > MOST:
        raise TooMuchError(f"{what} has a huge result")


def _require_few(count: Any, what: str) -> None:
    """Raises TooMuchError for a list that is too long."""
    if isinstance(count, int) and count > _MOST_ITEMS:
        raise TooMuchError(f"{what} has a huge result")


def require_short(value: Any, what: str) -> None:
    """The same for the text that a value is written as. Lists may hold one list many times."""
    require(_written(value, {}), what)


def _written(value: Any, known: dict[int, int]) -> int:
    """About how long a value is when it is written. ``known``: by the identity of containers."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int):
        return 1 + value.bit_length() // 3
    inner = _inner(value)
    if not inner:
        return 2
    if id(value) not in known:
        known[id(value)] = 0  # if it holds itself
        length = 2
        for one in inner:
            length += 2 + _written(one, known)
            if length > MOST:
                break
        known[id(value)] = length
    return known[id(value)]


def _inner(value: Any) -> Sequence[Any]:
    """What a container holds."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, ItemsView):
        return [one for pair in value for one in pair]
    if isinstance(value, KeysView | ValuesView):
        return list(value)
    if isinstance(value, jinja2.utils.Namespace):
        return [value._Namespace__attrs]
    return ()


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raises TooMuchError if an operator has a huge result."""
    what = f"a {operator}"
    if operator == "%":
        if isinstance(left, str | bytes):
            _check_printf(left, right)
    elif isinstance(left, int) and isinstance(right, int):
        _check_whole(operator, left, right)
    elif operator == "+" and isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        _require_sum(left, len(left) + len(right), what)
    elif operator == "*":
        for many, count in ((left, right), (right, left)):
            if isinstance(many, _SEQUENCES) and isinstance(count, int):
                _require_sum(many, len(many) * count, what)


def _require_sum(one: Any, length: int, what: str) -> None:
    (require if isinstance(one, str | bytes) else _require_few)(length, what)


def _check_whole(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() + right.bit_length()
    if operator == "**":
        bits = left.bit_length() * right if abs(left) > 1 else 0
    if operator in ("*", "**") and bits > _MOST_BITS:
        raise TooMuchError(f"a {operator} has a huge result")


def _check_printf(form: str | bytes, values: Any) -> None:
    text = form if isinstance(form, str) else form.decode("latin-1")
    found = _CONVERSION.findall(text)
    given = values.values() if isinstance(values, Mapping) else values
    given = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if any("*" in sizes for sizes in found):
        found.append(tuple(str(one) for one in given if isinstance(one, int)))
    widths = sum(_number(size) for sizes in found for size in sizes)
    # A mapping may give one value many times.
    times = len(found) if isinstance(values, Mapping) else 1
    require_short(given, "a %")
    longest = sum(len(one) for one in given if isinstance(one, str | bytes))
    require(len(text) + widths + times * longest, "a %")


def _number(digits: str) -> int:
    """A number in a format: long ones are all too much."""
    if not _NUMBERS.fullmatch(digits):
        return 0
    return int(digits) if len(digits) < 10 else MOST + 1


def joined(join: Callable[[Iterable[Any]], str], pieces: Sequence[Any]) -> str:
    """``pieces`` written after each other by ``join``."""
    require_short(pieces, "a ~")
    return join(pieces)


def concat(pieces: Iterable[str]) -> str:
    """The pieces of a block or macro, as one text."""
    return "".join(_pieces(pieces, 0, "a block"))


def _pieces(values: Iterable[Any], between: int, what: str) -> list[str]:
    """Values as texts, with so many characters between them."""
    length, texts = 0, []
    for value in values:
        if not isinstance(value, str):
            require_short(value, what)
        texts.append(value if isinstance(value, str) else str(value))
        length += len(texts[-1]) + between
        require(length, what)
    return texts


def check_call(called: Any, args: tuple[Any, ...], more: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments for a call. Raises TooMuchError for a method that has a huge result."""
    owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
    what = f"a call of {name}"
    if isinstance(owner, int) and name == "to_bytes":
        require(args[0] if args else more.get("length"), what)
    if not isinstance(owner, str | bytes):
        return args
    if name in ("center", "ljust", "rjust", "zfill") and args:
        require(args[0], what)
    elif name in ("split", "rsplit", "splitlines"):
        _require_few(_pieces_of(owner, name, args[0] if args else more.get("sep")), what)
    elif name == "expandtabs":
        size = args[0] if args else more.get("tabsize", 8)
        tab: Any = "\t" if isinstance(owner, str) else b"\t"
        require(_product(owner.count(tab), size), what)
    elif name == "replace" and len(args) > 1:
        count = args[2] if len(args) > 2 else more.get("count", -1)
        _check_replace(owner, args[0], args[1], count, what)
    elif name == "translate" and args and isinstance(args[0], Mapping):
        longest = max((len(one) for one in args[0].values() if isinstance(one, str)), default=0)
        require(len(owner) * longest, what)
    elif name == "join" and args and isinstance(owner, str):
        # As str.join, which takes texts only; an iterator cannot be read twice.
        values = list(args[0])
        if all(isinstance(one, str) for one in values):
            _pieces(values, len(owner), what)
        return (values, *args[1:])
    elif name == "join" and args:
        values = list(args[0])
        require(sum(len(one) + len(owner) for one in values if isinstance(one, bytes)), what)
        return (values, *args[1:])
    return args


def _pieces_of(text: Any, name: str, between: Any) -> int:
    """At most so many pieces a text is split into."""
    if name != "splitlines" and between and type(between) in (type(text), str):
        return int(text.count(between)) + 1
    return len(text) // 2 + 1 if name != "splitlines" else len(text)


def _product(left: Any, right: Any) -> Any:
    return left * right if isinstance(left, int) and isinstance(right, int) else 0


def _check_replace(text: Any, old: Any, new: Any, count: Any, what: str) -> None:
    if type(old) is not type(new) and not (isinstance(old, str) and isinstance(new, str)):
        return  # refused by the method
    found = text.count(old)
    if isinstance(count, int) and count >= 0:
        found = min(found, count)
    require(len(text) + found * (len(new) - len(old)), what)


class _Formatter(SandboxedFormatter):
    """``str.format``, with bounded widths and result."""

    _length = 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        for digits in _NUMBERS.findall(format_spec):
            require(_number(digits), "a format")
        require_short(value, "a format")
        text = super().format_field(value, format_spec)
        self._length += len(text)
        require(self._length, "a format")
        return text

    def convert_field(self, value: Any, conversion: Any) -> Any:
        require_short(value, "a format")
        return super().convert_field(value, conversion)


class _MarkupFormatter(_Formatter, SandboxedEscapeFormatter):
    pass


def bounded_format(environment: SandboxedEnvironment, method: Any) -> Callable[..., str] | None:
    """What is called in place of ``str.format`` or ``str.format_map``; None for other methods."""
    if not isinstance(method, types.MethodType | types.BuiltinMethodType):
        return None
    name, text = method.__name__, method.__self__
    if name not in ("format", "format_map") or not isinstance(text, str):
        return None

    def format(*args: Any, **more: Any) -> str:
        if name == "format_map":
            (more,), args = args, ()
        kind = type(text)
        if isinstance(text, Markup):
            return kind(_MarkupFormatter(environment, escape=text.escape).vformat(text, args, more))
        return kind(_Formatter(environment).vformat(text, args, more))

    return functools.update_wrapper(format, method)


def bounded_filters() -> dict[str, Callable[..., Any]]:
    """Jinja's filters that may make something huge, each with a check before it."""
    filters = {name: _bounded(name, check) for name, check in _CHECKS.items()}
    filters |= {name: _of_value(name, _require_short_text) for name in _OF_TEXTS}
    filters |= {name: _of_value(name, _require_few_items) for name in _OF_ITEMS}
    return filters | {"join": _join}


def bounded_tests() -> dict[str, Callable[..., Any]]:
    """Jinja's tests that read all of a value, each with a check before it."""
    return {name: _of_values(name) for name in _OF_VALUES}


def _of_values(name: str) -> Callable[..., Any]:
    original: Any = jinja2.tests.TESTS[name]

    def bounded(*args: Any) -> Any:
        require_short(args, f"the test {name}")
        for one in args:
            read(one)
        return original(*args)

    return bounded


def _of_value(name: str, check: Callable[[Any, str], None]) -> Callable[..., Any]:
    """A filter of whose value alone it depends what it makes."""
    original = jinja2.filters.FILTERS[name]
    place = 1 if hasattr(original, "jinja_pass_arg") else 0

    @functools.wraps(original)
    def bounded(*args: Any, **more: Any) -> Any:
        for value in args[place : place + 1]:
            check(value, f"the filter {name}")
        return original(*args, **more)

    return bounded


def _require_few_items(value: Any, what: str) -> None:
    """For what lists what a value holds, and may compare it."""
    _require_few(len(value) if isinstance(value, Sized) else 0, what)
    require_short(value, what)


def _require_short_text(value: Any, what: str) -> None:
    """For what takes any value as a text."""
    require_short((value,), what)


def _bounded(name: str, check: Callable[[dict[str, Any], str], None]) -> Callable[..., Any]:
    original = jinja2.filters.FILTERS[name]
    signature = inspect.signature(original)

    @functools.wraps(original)  # also what says that it takes the environment
    def bounded(*args: Any, **more: Any) -> Any:
        bound = signature.bind(*args, **more)
        bound.apply_defaults()
        check(bound.arguments, f"the filter {name}")
        return original(*args, **more)

    return bounded


@jinja2.pass_eval_context
def _join(context: Any, value: Any, d: Any = "", attribute: Any = None) -> Any:
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(context.environment, attribute), value)
    values = _pieces(value, len(str(d)), "the filter join")
    return jinja2.filters.sync_do_join(context, values, d)


def _check_center(given: dict[str, Any], what: str) -> None:
    require_short(given["value"], what)
    require(given["width"], what)


def _check_indent(given: dict[str, Any], what: str) -> None:
    require_short(given["s"], what)
    width = given["width"]
    lines = len(str(given["s"]).splitlines()) + 1
    require(_product(lines, len(width) if isinstance(width, str) else width), what)


def _check_wrap(given: dict[str, Any], what: str) -> None:
    require_short(given["s"], what)
    require(len(str(given["s"])) * len(given["wrapstring"] or ""), what)


def _check_replacing(given: dict[str, Any], what: str) -> None:
    for name in ("s", "old", "new"):
        require_short(given[name], what)
    text, old, new = (str(given[name]) for name in ("s", "old", "new"))
    _check_replace(text, old, new, given["count"], what)


def _check_formatting(given: dict[str, Any], what: str) -> None:
    require_short(given["value"], what)
    _check_printf(str(given["value"]), given["kwargs"] or given["args"])


def _check_round(given: dict[str, Any], what: str) -> None:
    if isinstance(given["precision"], int) and abs(given["precision"]) > _MOST_PRECISION:
        raise TooMuchError(f"{what} has a huge precision")


def _check_sum(given: dict[str, Any], what: str) -> None:
    if isinstance(given["start"], list | tuple):
        raise TooMuchError(f"{what} adds lists")


def check_json(value: Any, indent: Any) -> None:
    """Raises TooMuchError if JSON with such an indent would be huge."""
    require_short(value, "the filter tojson")
    if (len(indent) if isinstance(indent, str) else indent or 0) > _MOST_INDENT:
        raise TooMuchError("the filter tojson has a huge indent")


_CHECKS = {
    "center": _check_center,
    "format": _check_formatting,
    "indent": _check_indent,
    "replace": _check_replacing,
    "round": _check_round,
    "sum": _check_sum,
    "wordwrap": _check_wrap,
}
_OF_TEXTS = (
    "capitalize", "e", "escape", "forceescape", "lower", "safe", "string", "striptags",
    "title", "trim", "truncate", "upper", "urlencode", "wordcount", "xmlattr",
)  # fmt: skip
_OF_ITEMS = ("dictsort", "groupby", "list", "max", "min", "sort", "unique")
_OF_VALUES = (
    "!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le",
    "lessthan", "lower", "lt", "ne", "upper",
)  # fmt: skip
