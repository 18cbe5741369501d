# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress of deployments: a bar each, with its rate, and lines between them that stay whole."""

from __future__ import annotations

import sys
import threading
import time

import click

from moe_mobile.cli.progress import ProgressBar

__all__ = ["PhoneBar", "say"]

_saying = threading.Lock()


class PhoneBar(ProgressBar):
    """The bar of one phone, with MiB per second beside it.

    ``serial``, where several are at it: the bar says whose it is. ``row``: where it is drawn.
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
