# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of `moe-mobile bench`, and shows the results."""

from __future__ import annotations

import contextlib
import pathlib

import click

from moe_mobile.bench.fleet import Fleet, Plan
from moe_mobile.bench.plot import draw_results
from moe_mobile.bench.render import Shown
from moe_mobile.bench.row import Row
from moe_mobile.bench.store import ResultFile
from moe_mobile.cli.commands import with_options
from moe_mobile.cli.errors import format_error
from moe_mobile.cli.options import RowsOptions
from moe_mobile.cli.output import write_plot
from moe_mobile.cli.progress import ProgressBar, making_room
from moe_mobile.device.select import Opened
from moe_mobile.errors import CancelledError, MoeMobileError


def run_plan(
    plan: Plan,
    opened: Opened,
    shown: Shown,
    file: ResultFile | None,
    kept: RowsOptions,
    *,
    plot: pathlib.Path | None,
    as_json: bool,
) -> int:
    """Measure, show and draw. Closes ``file``.

    An error of one row or device does not stop the others. Returns the exit code of the first
    error. Raises an error if there is nothing else to show.
    """
    results: list[Row] = []
    try:
        found = _measure(plan, opened, shown, file, results)
        errors = [kept.resumable(with_options(one)) for one in found]
        if plot is not None and results:
            try:
                write_plot(plot, draw_results(results))
            except MoeMobileError as failure:
                errors.append(with_options(failure))
    finally:
        if file is not None:
            file.close()
    # With --json all of stdout is one document: an object for a lone error, else an array.
    alone = len(errors) == 1 and not (as_json and results)
    shown.end(() if alone else errors)
    if alone:
        raise errors[0]
    for error in errors:
        click.echo(format_error(error), err=True)
    if not errors:
        return 0
    stopped = [error for error in errors if isinstance(error, CancelledError)]
    return (stopped or errors)[0].exit_code


def _measure(
    plan: Plan,
    opened: Opened,
    shown: Shown,
    file: ResultFile | None,
    results: list[Row],
) -> list[MoeMobileError]:
    """The errors, in the order in which to report them."""

    def show(result: Row) -> None:
        results.append(result)
        with making_room():
            shown.row(result)

    def note(text: str) -> None:
        with making_room():
            shown.note(text)

    fleet = Fleet(plan, file=file, show=show, note=note)
    devices, errors = opened.devices, list(opened.failed.values())
    ended: list[MoeMobileError] = []
    for serial, unusable in opened.failed.items():  # at once, as the others may take long
        shown.note(f"note: {serial} is left out: {unusable.cause}")
    try:
        with contextlib.ExitStack() as drawn:
            if len(devices) == 1:
                fleet.run(devices[0], drawn.enter_context(ProgressBar()))
            elif devices:
                bars = [
                    drawn.enter_context(ProgressBar(name=one.serial, row=row))
                    for row, one in enumerate(devices)
                ]
                ended = fleet.run_all(devices, bars)
    except KeyboardInterrupt:
        ended = [CancelledError("stopped by the user")]
    except MoeMobileError as error:
        ended = [error]
    return [*errors, *fleet.failed, *ended]
