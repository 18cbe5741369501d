# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: a bar on a terminal, else now and then a line."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn, Self

import click

from moe_mobile.base.terminal import without_controls
from moe_mobile.base.text import digits

if TYPE_CHECKING:
    from tqdm import tqdm

_saying = threading.Lock()
_LINE_SECONDS = 10.0
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Stage:
    """What a stage is called, and what its steps are; ``scale`` of them are one ``unit``.

    ``starts_slowly``: the first step follows work that the others do not need, such as lowering.
    ``ends_slowly``: so does the end. The time that is left is that of the steps alone.
    """

    label: str
    unit: str = ""
    scale: int = 1
    starts_slowly: bool = False
    ends_slowly: bool = False

    def shown(self, steps: int) -> int:
        """Whole units."""
        return steps // self.scale

    def all(self, steps: int) -> int:
        """The same of a total, rounded up."""
        return -(-steps // self.scale)


_STAGES = {
    "compare": _Stage("comparing with the checkpoint", "parts"),
    "export": _Stage("exporting", "experts", starts_slowly=True, ends_slowly=True),
    "verify": _Stage("verifying", "MiB", _MIB),
    "verify packed store": _Stage("verifying packed weights", "files"),
    "digest": _Stage("hashing", "files"),
    "deploy": _Stage("sending", "MiB"),
    "wait": _Stage("waiting for another process that prepares this bundle", "s"),
    "prepare dense": _Stage("packing dense weights for this CPU", "programs"),
    "prepare": _Stage("packing experts for this CPU", "experts"),
    "load dense": _Stage("loading dense weights", "programs"),
    "load": _Stage("loading experts", "experts"),
    "load model": _Stage("loading the checkpoint"),
    "prefill": _Stage("reading the prompt", "tokens"),
    "bench": _Stage("measuring", "repetitions"),
    "score": _Stage("scoring", "tokens"),
    "trace": _Stage("recording", "tokens"),
    "replaying": _Stage("replaying", "tokens"),
    "cool": _Stage("cooling down", "s"),
}


class ProgressBar:
    """A context manager that is also the progress callback of Engine, Runner and export.

    The first call of a stage says what was done before: the rate, and the time that is left, count
    only what came after it; of a stage that starts slowly, what came after its first step. Lines
    for a log: the stage when it has run for ten seconds, then every ten seconds.

    Args:
        name: of one of several bars, such as a phone's serial.
        row: where it is drawn, if there are several.
    """

    def __init__(self, *, name: str = "", row: int = 0) -> None:
        self._name, self._row = name, row
        self._terminal = sys.stderr.isatty()
        self._stage = ""
        self._bar: tqdm[NoReturn] | None = None
        self._next_line = 0.0
        self._began = 0.0
        self._first = 0
        self._starting = False
        self._last = (0, 0)

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        what = _STAGES.get(stage) or _Stage(stage)
        now, place = time.monotonic(), (what.shown(done), what.all(total))
        # Another package that is sent begins anew, and so may have been done in part.
        if stage != self._stage or place[0] < self._last[0] or place[1] > self._last[1]:
            self._close_bar()
            self._stage, self._next_line = stage, now + _LINE_SECONDS
            self._began, self._first = now, place[0]
            self._starting = what.starts_slowly
        elif self._starting and place[0] > self._first:
            self._close_bar()
            self._began, self._first = now, place[0]
            self._starting = False
        self._last = place
        if self._terminal:
            self._draw(what, detail)
        elif now >= self._next_line:
            self._next_line = now + _LINE_SECONDS
            print(self._line(what, now, detail), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the bar, so that what is printed next starts on a clean line."""
        self._close_bar()
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _label(self, stage: _Stage) -> str:
        return f"{self._name} {stage.label}".lstrip()

    def _line(self, stage: _Stage, now: float, detail: str) -> str:
        done, total = self._last
        words = [f"{self._label(stage)}: {done:,} of {total:,} {stage.unit}".rstrip()]
        speed = (done - self._first) / (now - self._began) if now > self._began else 0.0
        if speed > 0 and done < total and stage.unit not in ("", "s"):
            left = _duration(math.ceil((total - done) / speed))
            of = f" for {stage.unit}" if stage.ends_slowly else ""
            words.append(f"{digits(speed, 3)} per s, about {left} left{of}")
        return without_controls(", ".join(filter(None, (*words, detail))))

    def _draw(self, stage: _Stage, detail: str) -> None:
        done, total = self._last
        bar_format = _bar_format(stage, at_end=done >= total)
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=self._first,
                unit=f" {stage.unit}".rstrip(),
                smoothing=0.1,
                desc=without_controls(self._label(stage)),
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
                position=self._row,
                bar_format=bar_format,
            )
        self._bar.total = total
        self._bar.bar_format = bar_format
        self._bar.set_postfix_str(without_controls(detail), refresh=False)
        self._bar.update(done - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar_format(stage: _Stage, *, at_end: bool) -> str:
    left = "<{remaining}"
    if stage.ends_slowly:
        left = "" if at_end else f"{left} for {stage.unit}"
    rate = ", {rate_noinv_fmt}" * (stage.unit not in ("", "s"))
    return f"{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}}{{unit}} [{{elapsed}}{left}{rate}{{postfix}}]"


def _duration(seconds: int) -> str:
    if seconds < 100:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def making_room() -> Iterator[None]:
    """Bars that are drawn make room for what is written meanwhile, by one thread at a time."""
    with _saying:
        if not sys.stderr.isatty():
            yield
            return
        from tqdm import tqdm

        with tqdm.external_write_mode():
            yield
            sys.stdout.flush()
            sys.stderr.flush()


def say(text: str, *, err: bool = False) -> None:
    """Print a line from any thread."""
    with making_room():
        click.echo(text, err=err)
