# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: a bar on a terminal, else now and then a line."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn, Self

import click

if TYPE_CHECKING:
    from tqdm import tqdm

_saying = threading.Lock()
_LINE_SECONDS = 10.0

_LABELS = {
    "deploy": "sending (MiB)",
    "verify": "verifying",
    "wait": "waiting for another process that prepares this bundle (s)",
    "prepare": "packing weights for this CPU",
    "load": "loading",
    "prefill": "reading the prompt",
    "bench": "measuring",
    "score": "scoring",
    "cool": "cooling down",
    "export": "exporting",
}
_UNITS = {"export": " experts"}


class ProgressBar:
    """A context manager that is also the progress callback of Engine, Runner and export.

    Lines for a log: the stage when it has run for ten seconds, then every ten seconds.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._stage = ""
        self._bar: tqdm[NoReturn] | None = None
        self._next_line = 0.0

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if self._quiet:
            return
        if stage != self._stage:
            self._close_bar()
            self._stage = stage
            self._next_line = time.monotonic() + _LINE_SECONDS
        if self._terminal:
            self._draw(done, total, detail)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            steps = f"{done} of {total}{self._unit()}"
            print(f"{self._label()}: {steps} {detail}".rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the bar, so that what is printed next starts on a clean line."""
        self._close_bar()
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _label(self) -> str:
        return _LABELS.get(self._stage, self._stage)

    def _unit(self) -> str:
        return _UNITS.get(self._stage, "")

    def _draw(self, done: int, total: int, detail: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                # What was done before counts, but not for the rate.
                initial=done,
                desc=self._label(),
                unit=self._unit() or "it",
                file=sys.stderr,
                leave=False,
                ncols=80,
            )
        self._bar.total = total
        self._bar.set_postfix_str(detail, refresh=False)
        self._bar.update(done - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class PhoneBar(ProgressBar):
    """The bar of one phone, with MiB per second.

    ``serial``: shown by the bar, if there are several phones. ``row``: where it is drawn.
    """

    def __init__(self, serial: str = "", row: int = 0) -> None:
        super().__init__()
        self._serial, self._row = serial, row
        self._began: float | None = None
        self._first = 0
        self._last = (0, 0)

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        last, self._last = self._last, (done, total)
        # What was there already counts from the start, and another package has its own rate.
        if done == 0 or done < last[0] or total != last[1] or self._began is None:
            self._began, self._first = now, done
        elif now > self._began and stage == "deploy":
            detail = f"{(done - self._first) / (now - self._began):.0f} MiB/s"
        super().__call__(stage, done, total, detail)

    def _label(self) -> str:
        return f"{self._serial} {super()._label()}".lstrip()

    def _draw(self, done: int, total: int, detail: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                desc=self._label(),
                file=sys.stderr,
                leave=False,
                ncols=80,
                position=self._row,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            )
        super()._draw(done, total, detail)


def say(text: str, *, err: bool = False) -> None:
    """Print a line from any thread; bars that are drawn make room for it."""
    with _saying:
        if not sys.stderr.isatty():
            click.echo(text, err=err)
            return
        from tqdm import tqdm

        with tqdm.external_write_mode():
            click.echo(text, err=err)
            (sys.stderr if err else sys.stdout).flush()
