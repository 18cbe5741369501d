# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: each value has its path in the document, so that every error names it.

The rules are those of the engine's reader; both refuse the same manifests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from moe_mobile.base import limits
from moe_mobile.base.json_text import json_text
from moe_mobile.errors import BundleInvalidError, MoeMobileError, UnsupportedError

Json = dict[str, Any]
"""A JSON object."""

MAX_INTEGER = 2**53
MAX_MANIFEST_BYTES = 64 << 20
_MAX_DEPTH = 16
_MAX_VALUES = 4 << 20
_LARGEST_FLOAT = 3.4028234663852886e38
_REMEDY = "Export the bundle again"


def parse_strict_json(data: bytes, file: str) -> Any:
    """Parses hostile JSON: no duplicate keys, byte order mark, NaN, deep nesting, bad UTF-8,
    numbers beyond the range of floating point, absurd numbers of values.

    Raises:
        BundleInvalidError: naming ``file``.
    """

    def refuse(cause: str) -> NoReturn:
        raise BundleInvalidError(cause, file=file, remedy=_REMEDY)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            refuse(f"has the key {twice!r} twice in one object")
        return value

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse("holds a number beyond the range of floating point")
        return value

    def integer(text: str) -> int | float:
        # "-0" would otherwise pass for the natural number 0.
        return -0.0 if text == "-0" else int(text) if len(text) < 300 else number(text)

    if len(data) > MAX_MANIFEST_BYTES:
        refuse("is larger than 64 MiB")
    if data.startswith(b"\xef\xbb\xbf"):
        refuse("starts with a byte order mark")
    if too_many_values(data, _MAX_VALUES):
        refuse("holds too many values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_int=integer,
            parse_float=number,
            parse_constant=lambda name: refuse(f"holds {name}, which is not JSON"),
        )
        json_text(value, ascii=False).encode("utf-8")  # refuses lone surrogates
    except BundleInvalidError:
        raise  # by what was given to the parser
    except RecursionError:
        refuse(f"is nested deeper than {_MAX_DEPTH} levels")
    except ValueError as error:
        refuse(f"is not valid JSON: {' '.join(str(error).split())[:200]}")
    depth, values = _extent(value)
    if depth > _MAX_DEPTH:
        refuse(f"is nested deeper than {_MAX_DEPTH} levels")
    if values > _MAX_VALUES:
        refuse("holds too many values")
    return value


def too_many_values(data: bytes | bytearray, most: int | None = None) -> bool:
    """Whether JSON would take much more memory than its text.

    It is to be asked before the text is parsed. Each value comes after a comma or a bracket, so
    this counts at least all values. ``most``: of them; by default ``limits.VALUES``.
    """
    count = sum(map(data.count, (b",", b"[", b"{")))
    return count > (limits.VALUES if most is None else most)


def parse_object(line: bytes, *, finite: bool = False) -> Json | None:
    """The JSON object in ``line``, or None if it holds anything else, or too many values.

    ``finite``: also None if a number is infinite or NaN, or an integer takes more than 64 bits.
    """
    parse, integer = (_finite, _of_64_bits) if finite else (float, int)
    if too_many_values(line):
        return None
    try:
        item = json.loads(line, parse_int=integer, parse_float=parse, parse_constant=parse)
    except (ValueError, RecursionError):
        return None
    return item if isinstance(item, dict) else None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _of_64_bits(text: str) -> int:
    # No more than a float or a count in C++ holds, so that computing with it cannot overflow.
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError(text)
    return value


def _extent(value: Any) -> tuple[int, int]:
    """Objects and arrays around the innermost value, and values, counted as the engine does:
    a key is one, and so are the beginning and the end of an object or array."""
    depth, values, level = -1, 0, [value]
    while level:
        depth += 1
        values += len(level)
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                values += 1 + len(item)
                inner.extend(item.values())
            elif isinstance(item, list):
                values += 1
                inner.extend(item)
        level = inner
    return depth, values


class JsonField:
    """A parsed value, its place (``layers[3].dense.path``) and its file."""

    def __init__(self, value: Any, place: str, file: str) -> None:
        self.value = value
        self._place = place
        self._file = file

    def fail(self, cause: str, kind: type[MoeMobileError] = BundleInvalidError) -> NoReturn:
        remedy = _REMEDY
        if kind is UnsupportedError:
            remedy = "Use the moe-mobile version that wrote the bundle"
        raise kind(f"{self._place or 'the document'} {cause}", file=self._file, remedy=remedy)

    def __getitem__(self, member: str) -> JsonField:
        place = f"{self._place}.{member}" if self._place else member
        return JsonField(self.value[member], place, self._file)

    def has(self, member: str) -> bool:
        return member in self.value

    def expect_object(self) -> None:
        if not isinstance(self.value, dict):
            self.fail("is not an object")

    def expect_members(self, required: Collection[str], optional: Collection[str] = ()) -> None:
        self.expect_object()
        for member in required:
            if member not in self.value:
                self.fail(f"does not have the member {member!r}")
        for member in self.value:
            if member not in required and member not in optional:
                self.fail(f"has the unknown member {member!r}")

    def items(self) -> list[JsonField]:
        """The entries of an array."""
        if not isinstance(self.value, list):
            self.fail("is not an array")
        return [
            JsonField(item, f"{self._place}[{index}]", self._file)
            for index, item in enumerate(self.value)
        ]

    def integer(self, low: int, high: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 0:
            self.fail("is not a non-negative integer")
        if not low <= self.value <= high:
            self.fail(f"is {self.value}, not in {low}..{high}")
        return self.value

    def number(self) -> float:
        """A number that a float32 can hold."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail("is not a number")
        if not math.isfinite(self.value) or abs(self.value) > _LARGEST_FLOAT:
            self.fail("is beyond the range of a float")
        return float(self.value)

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            self.fail("is not true or false")
        return self.value

    def text(self, max_bytes: int) -> str:
        """A string of 1 to ``max_bytes`` UTF-8 bytes without control characters."""
        if not isinstance(self.value, str):
            self.fail("is not a string")
        if not self.value:
            self.fail("is empty")
        if len(self.value.encode()) > max_bytes:
            self.fail(f"is longer than {max_bytes} bytes")
        if any(ord(c) < 0x20 or ord(c) == 0x7F for c in self.value):
            self.fail("has a control character")
        return self.value

    def one_of(
        self, choices: Sequence[str], kind: type[MoeMobileError] = BundleInvalidError
    ) -> str:
        value = self.text(64)
        if value not in choices:
            self.fail(f"is {value!r}, known: {', '.join(choices)}", kind)
        return value
