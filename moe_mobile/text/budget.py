# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What one rendering of a chat template may take in all: steps, bytes and time.

:mod:`moe_mobile.text.lengths` bounds what a single operation makes; here they are added up.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import time
from collections.abc import Iterator
from typing import Any

MOST_STEPS = 100_000
"""Turns of loops, calls, filters, numbers of all ``range``, and pages of text that are read. For a
conversation of 200 messages published templates take 1,300, and 3 MiB."""

MOST_BYTES = 64 << 20
"""Of all texts and lists that are made, also of those that are gone again."""

MOST_SECONDS = 5
"""Of the thread's processor time: single steps may take long."""

_PAGE_BITS = 12


class TooMuchError(Exception):
    """A template makes something huge, or takes too much."""


class _Budget:
    """What is left of one rendering's."""

    def __init__(self) -> None:
        self._steps, self._bytes = MOST_STEPS, MOST_BYTES
        self._end = time.thread_time() + MOST_SECONDS

    def step(self, count: int) -> None:
        self._steps -= count
        if self._steps < 0:
            raise TooMuchError(f"it takes more than {MOST_STEPS} steps")
        if time.thread_time() > self._end:
            raise TooMuchError(f"it runs for more than {MOST_SECONDS} s")

    def spend(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise TooMuchError(f"it makes more than {MOST_BYTES >> 20} MiB of texts and lists")


_budget: contextvars.ContextVar[_Budget] = contextvars.ContextVar("_budget")
"""That of the rendering that runs in this thread: templates cannot reach it."""


@contextlib.contextmanager
def rendering() -> Iterator[None]:
    """What is counted meanwhile is one rendering's."""
    before = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(before)


def step(count: int = 1) -> None:
    """Counts steps. Raises TooMuchError beyond MOST_STEPS or MOST_SECONDS."""
    _budget.get().step(count)


def spend(count: int) -> None:
    """Counts bytes that are made. Raises TooMuchError beyond MOST_BYTES."""
    _budget.get().spend(count)


def read(value: Any) -> Any:
    """The value; a long text costs steps to read."""
    if isinstance(value, str | bytes) and len(value) >> _PAGE_BITS:
        step(len(value) >> _PAGE_BITS)
    return value


def made(value: Any) -> Any:
    """The value, whose own bytes are counted."""
    spend(sys.getsizeof(value))
    return value


def made_with_items(value: Any) -> Any:
    """The value, whose bytes are counted with those of what a list holds."""
    if isinstance(value, list | tuple):
        spend(sum(map(sys.getsizeof, value)))
    return made(value)


def counted(values: Iterator[Any]) -> Iterator[Any]:
    """The values, which are counted as they are taken."""
    for value in values:
        step()
        yield made(value)
