# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The file that ``--plot`` names. Needs the optional matplotlib."""

from __future__ import annotations

import io
import pathlib
from typing import TYPE_CHECKING

from moe_mobile.cli.output import write_output
from moe_mobile.cli.writable import check_writable
from moe_mobile.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_plot", "write_plot"]

_SUFFIXES = (".png", ".svg", ".pdf")
_DPI = 120


def check_plot(plot: pathlib.Path | None) -> None:
    """Fail before the work where the plot could not be written after it; None is no file.

    Raises UsageError for an unknown file type, UnsupportedError without matplotlib,
    DiskFullError, ReadOnlyError or IoError where it cannot be written.
    """
    if plot is None:
        return
    if plot.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"plots are written as {', '.join(_SUFFIXES)}", file=plot, remedy="Choose one of them"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UnsupportedError(
            "matplotlib is not installed, and --plot draws with it",
            remedy="Install it: pip install 'moe-mobile[plot]', or pip install matplotlib",
        ) from None
    check_writable(plot, replaced=True)


def write_plot(plot: pathlib.Path, figure: Figure) -> None:
    """Raises DiskFullError, ReadOnlyError or IoError."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=plot.suffix[1:].lower(), dpi=_DPI)
    write_output(plot, drawn.getvalue())
