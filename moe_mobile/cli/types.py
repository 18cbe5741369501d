# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Types of the values that options and arguments take."""

from __future__ import annotations

import math
import pathlib
import re
from typing import Any

import click

from moe_mobile.base.files import open_input
from moe_mobile.base.text import digits, parse_size, size_meant
from moe_mobile.cli.commands import parameter_name
from moe_mobile.errors import UsageError, did_you_mean, read_error

_EMPTY = "it is empty"


class Choice(click.Choice[str]):
    """One of several words. The error of another one asks for the word that may be meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in self.choices:
            return str(value)
        known = ", ".join(self.choices)
        raise UsageError(
            f"{value!r} is not one of {known}",
            setting=None if param is None else parameter_name(param),
            remedy=did_you_mean(str(value), self.choices, f"Give one of {known}"),
        )


class NonEmpty(click.types.StringParamType):
    """A text with something in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx) if value else self.fail(_EMPTY, param, ctx)


class PathType(click.Path):
    """A path, which is not empty: that would be the current folder."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(path_type=pathlib.Path, **attributes)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.fail(_EMPTY, param, ctx) if value == "" else super().convert(value, param, ctx)


PATH = PathType()
"""A file or folder that may be missing: what reads it says so, and names the remedy."""

OUTPUT = PathType(dir_okay=False)
"""A file that a command writes."""


class InputFile(click.File):
    """A file that a command reads, or stdin. One that cannot be opened is an IoError with its
    name."""

    def __init__(self) -> None:
        super().__init__("rb")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-":
            return super().convert(value, param, ctx)
        try:
            file = open_input(value)
        except OSError as error:
            raise read_error(error, str(value)) from error
        if ctx is not None:
            ctx.call_on_close(file.close)
        return file


class _Size(click.ParamType[int]):
    """A number of bytes: 512MiB, 2GiB, 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(str(value))
        except ValueError as error:
            meant = size_meant(str(value))
            self.fail(f"{error}. Did you mean {meant!r}?" if meant else str(error), param, ctx)


SIZE = _Size()


def cache_size(text: str) -> str:
    """The text, which the engine reads. Raises UsageError if it seems to be a mistyped size."""
    forms = "Write auto, a share of the experts like 50%, or bytes like 512MiB or 1.5GiB"
    meant = None if text.endswith("KB") else size_meant(text)  # the engine knows it
    if re.fullmatch(r"0?\.\d{1,9}", text, re.ASCII) and float(text) > 0:
        meant = f"{digits(100 * float(text))}%"
    elif text.isalpha() and text != "auto":
        remedy = did_you_mean(text, ("auto",), forms)
        raise UsageError(f'invalid size "{text}"', remedy=remedy)
    if meant is None:
        return text
    raise UsageError(f'invalid size "{text}"', remedy=f"Did you mean {meant!r}? {forms}")


class CacheSize(click.types.StringParamType):
    """See :func:`cache_size`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return cache_size(str(value))
        except UsageError as error:
            name = None if param is None else parameter_name(param)
            raise UsageError(error.cause, setting=name, remedy=error.remedy) from None


def _range_text(least: float | None, most: float | None) -> str:
    """As people say it; click's own is 0<=x<=1e+38."""
    if least is None:
        return "any" if most is None else f"at most {_bound(most)}"
    return f"{_bound(least)} or more" if most is None else f"{_bound(least)} to {_bound(most)}"


def _bound(value: float) -> str:
    """2^64 - 1 and 10^38 where the digits would be hard to read."""
    if isinstance(value, int):
        power = value.bit_length()
        return f"2^{power} - 1" if power >= 32 and value == 2**power - 1 else f"{value:,}"
    exponent = round(math.log10(value)) if value > 0 else 0
    if abs(exponent) >= 6 and math.isclose(value, 10.0**exponent, rel_tol=1e-12):
        return f"10^{exponent}"
    return digits(value)


class Whole(click.IntRange):
    """A whole number in a range."""

    def _describe_range(self) -> str:  # for help and for errors
        return _range_text(self.min, self.max)


class Number(click.FloatRange):
    """A finite number in a range: comparisons let NaN pass."""

    def _describe_range(self) -> str:
        return _range_text(self.min, self.max)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number
