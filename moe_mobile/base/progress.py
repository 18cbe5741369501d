# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The one kind of progress callback."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then during long work. What it raises stops the work.

    ``stage``: one word or two, such as "load"; ``done`` of ``total`` steps of that stage are done;
    ``detail``: what is being done, for people. What an earlier run had done counts, and the first
    call of a stage has it: what ``done`` grows by is the work of this run.
    """

    def __call__(self, stage: str, done: int, total: int, detail: str = "", /) -> None: ...


def silent(stage: str, done: int, total: int, detail: str = "") -> None:
    """Reports nothing."""


def part_of(progress: Progress, stage: str, begin: int, end: int, total: int) -> Progress:
    """Reports a part, whatever its stage and steps, as steps ``begin`` to ``end`` of ``stage``."""

    def report(_: str, done: int, of: int, detail: str = "") -> None:
        progress(stage, begin + (end - begin) * done // of, total, detail)

    return report
