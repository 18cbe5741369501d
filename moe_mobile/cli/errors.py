# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How an error looks: one block on stderr, and an object on stdout if JSON was asked for."""

from __future__ import annotations

import contextlib

import click

from moe_mobile.base.json_text import json_text
from moe_mobile.base.terminal import without_controls
from moe_mobile.errors import MoeMobileError

INTERNAL_EXIT_CODE = 1
"""A defect: an exception nobody turned into a typed error."""


def format_error(error: MoeMobileError) -> str:
    """The block for people: where and what, then what to do."""
    places = [place for place in (error.file, error.setting) if place is not None]
    lines = [": ".join(["error", *places, error.cause])]
    if error.remedy is not None:
        lines.append(f"  what to do: {error.remedy}")
    # Causes quote what files and phones say: that must not act on the terminal.
    return without_controls("\n".join(lines))


def report(error: MoeMobileError, *, as_json: bool) -> int:
    """Print the error and return the exit code."""
    if as_json:
        # If stdout itself failed, stderr still has the error.
        with contextlib.suppress(OSError, MoeMobileError):
            click.echo(json_text({"error": error.as_dict()}))
    with contextlib.suppress(OSError):
        click.echo(format_error(error), err=True)
    return error.exit_code
