# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile doctor`."""

from __future__ import annotations

import dataclasses
import pathlib

import click

from moe_mobile.cli.checks import Check, run_checks
from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.cli.types import PathType
from moe_mobile.errors import UnsupportedError

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@cli_command(
    "moe-mobile doctor",
    "moe-mobile doctor --dir /data/models     # where the bundles will lie",
    "moe-mobile doctor --json",
)
@click.option(
    "--dir",
    "folder",
    type=PathType(file_okay=False),
    default=pathlib.Path(),
    show_default=False,
    help="The folder whose disk to check.  [default: the current one]",
)
@json_option
def command(folder: pathlib.Path, as_json: bool) -> None:
    """Check that this machine can export and run bundles, and say what to do if it cannot.

    Exits with 3 if a check fails; warnings do not count.
    """
    checks = []
    for check in run_checks(folder):
        checks.append(check)
        if not as_json:
            _show(check)
    failed = [check.name for check in checks if check.status == "fail"]
    if as_json:
        echo_json({"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]})
    if failed:
        raise click.exceptions.Exit(UnsupportedError.exit_code)


def _show(check: Check) -> None:
    status = click.style(f"{check.status:<4}", fg=_COLORS[check.status])
    click.echo(f"{status}  {check.name:<14}{check.detail}")
    if check.remedy is not None:
        click.echo(f"      {'':<14}-> {check.remedy}")
