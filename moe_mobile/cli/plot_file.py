# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The page that ``--plot`` names."""

from __future__ import annotations

import html
import pathlib
from typing import Any

from moe_mobile.cli.output import write_output
from moe_mobile.cli.writable import check_writable
from moe_mobile.errors import UsageError

__all__ = ["check_plot", "write_plot"]

_SUFFIXES = (".html", ".htm")


def check_plot(plot: pathlib.Path | None) -> None:
    """Fail before the work if the plot could not be written after it; None is no file.

    Raises UsageError for an unknown file type, DiskFullError, ReadOnlyError or IoError if it cannot
    be written.
    """
    if plot is None:
        return
    if plot.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            "plots are written as HTML pages",
            file=plot,
            remedy=f"Give it the ending {_SUFFIXES[0]}",
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
    """Plotly reads a few tags in texts, links among them: models and routings have none."""
    if isinstance(value, str):
        return html.escape(value, quote=False)
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    if isinstance(value, dict):
        return {
            name: one if name == "hovertemplate" else _escaped(one) for name, one in value.items()
        }
    return value
