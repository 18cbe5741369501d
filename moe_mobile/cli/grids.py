# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Values of `bench` that are separated by commas and multiply into a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from moe_mobile.bench.row import BenchTest
from moe_mobile.cli.options import RESIDENCIES
from moe_mobile.cli.types import Choice
from moe_mobile.errors import UsageError, did_you_mean
from moe_mobile.settings import MOST_NUMBER

Item = TypeVar("Item")

_EXAMPLES = {
    "-p": "512, or 128,512",
    "-n": "128, or 64,128",
    "-pg": "512,128",
    "--cache": "50%, or 25%,50%,2GiB",
    "--residency": f"slots, or {','.join(RESIDENCIES)}",
    "--lanes": "2, or 1,2,4",
    "-t": "4, or auto,2,4",
    "--drop-cold": "0.5, or 0.25,0.5",
}
"""Of what an option takes."""


def values(option: str, text: str, parse: Callable[[str], Item]) -> list[Item]:
    """What `parse` makes of the parts between commas, each once. Raises UsageError."""
    return list(dict.fromkeys(_parts(option, text, parse)))


def _parts(option: str, text: str, parse: Callable[[str], Item]) -> list[Item]:
    try:
        parts = [part.strip() for part in text.split(",")]
        if "" in parts:
            raise ValueError("a value is missing")
        return [parse(part) for part in parts]
    except UsageError as error:
        raise UsageError(error.cause, setting=option, remedy=error.remedy) from None
    except ValueError as error:
        raise UsageError(
            str(error),
            setting=option,
            remedy=f"Write it like {option} {_EXAMPLES[option]}",
        ) from None


def natural(text: str) -> int:
    """0, 1, 2, ... Raises ValueError, as all that follow."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a whole number")
    digits = text.lstrip("0") or "0"
    if len(digits) > 10 or int(digits) > MOST_NUMBER:  # int() refuses thousands of digits
        raise ValueError(f"{text} is larger than {MOST_NUMBER}")
    return int(digits)


def positive(text: str) -> int:
    """1, 2, 3, ..."""
    value = natural(text)
    if value == 0:
        raise ValueError("0 is too small")
    return value


def threads(text: str) -> int | None:
    """A number of threads, or None for `auto`. Raises UsageError too."""
    if text.isalpha() and text != "auto":
        remedy = did_you_mean(text, ("auto",), f"Write it like -t {_EXAMPLES['-t']}")
        raise UsageError(f"{text!r} is not a whole number", remedy=remedy)
    return None if text == "auto" else positive(text)


def residency(text: str) -> str:
    """One of RESIDENCIES. Raises UsageError."""
    return Choice(RESIDENCIES).convert(text, None, None)


def pair(text: str) -> BenchTest:
    """`512,128`: a prompt and tokens decoded after it. Raises UsageError."""
    numbers = _parts("-pg", text, positive)
    if len(numbers) != 2:
        raise UsageError(
            f"two numbers are needed, not {text!r}",
            setting="-pg",
            remedy="Write it like -pg 512,128",
        )
    return BenchTest(*numbers)
