# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a user reads: standard output, whose failures are typed errors, and plots."""

from __future__ import annotations

import contextlib
import html
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from moe_mobile.base.outputs import write_output
from moe_mobile.base.routings import lossy_mark
from moe_mobile.cli.writable import check_writable
from moe_mobile.errors import UsageError, write_error

STDOUT = "standard output"
"""Names it in errors."""

_PLOT_SUFFIXES = (".html", ".htm")


def notes_of(info: dict[str, Any]) -> list[str]:
    """Notes for people on the answer to the runner's `open` request."""
    routing = info["routing"]
    notes = [*info["fallbacks"], *([routing["note"]] if routing["note"] else [])]
    mark = lossy_mark(routing["resolved"], info["settings"]["precision"])
    return notes + [mark] * routing["lossy"]


def open_standard_streams() -> bool:
    """Opens the standard streams that the process was started without.

    Else the next file that is opened would take the descriptor, and get what is meant for the
    stream. Returns whether there is a stdout: without one, work is in vain.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Takes the lowest descriptor that is free: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    has_stdout = sys.stdout is not None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    return has_stdout


class _Guarded:
    """A text stream that says of itself that it cannot be written: Python's OSError does not."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _typed_errors():
            return self._stream.write(text)

    def flush(self) -> None:
        with _typed_errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # no failure: the reader has seen enough
    except OSError as error:
        raise write_error(error, STDOUT) from error


@contextlib.contextmanager
def guarded_stdout() -> Iterator[None]:
    """For the time of the context, a failure of ``sys.stdout`` is a DiskFullError or IoError."""
    stream = sys.stdout
    sys.stdout = cast(TextIO, _Guarded(stream))
    try:
        yield
    finally:
        sys.stdout = stream


def check_plot(plot: pathlib.Path | None) -> None:
    """Fail before the work if the plot could not be written after it; None: there is no file.

    Raises UsageError for an unknown file type, DiskFullError, ReadOnlyError or IoError if it cannot
    be written.
    """
    if plot is None:
        return
    if plot.suffix.lower() not in _PLOT_SUFFIXES:
        raise UsageError(
            "plots are written as HTML pages",
            file=plot,
            remedy=f"Give it the ending {_PLOT_SUFFIXES[0]}",
        )
    check_writable(plot, replaced=True)


def write_plot(plot: pathlib.Path, figure: dict[str, Any]) -> None:
    """Write a Plotly figure as a page that needs nothing else. Texts in it are shown as they are.

    Raises DiskFullError, ReadOnlyError or IoError.
    """
    from plotly.io import to_html

    page = to_html(_escaped(figure), include_plotlyjs=True, full_html=True, validate=False)
    write_output(plot, page.encode("utf-8", "replace"))


def _escaped(value: Any) -> Any:
    """Escapes the tags, such as links, that Plotly interprets in texts."""
    if isinstance(value, str):
        return html.escape(value, quote=False)
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    if isinstance(value, dict):
        return {
            name: one if name == "hovertemplate" else _escaped(one) for name, one in value.items()
        }
    return value
