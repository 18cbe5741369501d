# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile report`."""

from __future__ import annotations

import contextlib
import pathlib

import click

from moe_mobile.base.files import open_regular
from moe_mobile.base.outputs import write_output
from moe_mobile.base.text import size
from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.cli.types import OUTPUT, PathType
from moe_mobile.cli.writable import check_outputs
from moe_mobile.errors import UsageError
from moe_mobile.report.load import read_results

_OTHERS = (".csv", ".json", ".jsonl", ".md", ".pdf", ".png", ".svg", ".txt")


@cli_command(
    "moe-mobile bench olmoe --device any --out phone.jsonl && moe-mobile report phone.jsonl",
    "moe-mobile report before.jsonl after.jsonl -o change.html --title 'O_DIRECT on UFS 4'",
    "moe-mobile report phone.jsonl --json        # the comparison, for scripts",
)
@click.argument(
    "results",
    nargs=-1,
    required=True,
    type=PathType(allow_dash=True),
)
@click.option(
    "-o",
    "--out",
    type=OUTPUT,
    default="report.html",
    help="The page to write; an earlier page is replaced, any other file is not.",
)
@click.option("--title", help="Title of the page.  [default: the names of the files]")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@json_option
def command(
    results: tuple[pathlib.Path, ...],
    out: pathlib.Path,
    title: str | None,
    show: bool,
    as_json: bool,
) -> None:
    """Make one self-contained page of what `bench` wrote: speed, latency of every token, cache,
    memory, temperature, energy, and comparisons of rows that were measured in the same way.

    Reads JSON lines and JSON; - is standard input. Rows with every token (`bench --out`, or
    --token-parts) show the most. With --json no page is written.
    """
    from moe_mobile.report.page import make_page, summary

    if not as_json:
        sources = [pathlib.Path("/dev/stdin" if str(path) == "-" else path) for path in results]
        check_outputs({"--out": out}, {"RESULTS": sources})
        check_page(out, "--out")
    read = read_results(results)
    if as_json:
        echo_json(summary(read))
        return
    names = ", ".join(path.stem for path in results)
    page = make_page(read, title or f"moe-mobile bench: {names}")
    write_output(out, page)
    for note in read.notes:
        # They quote files of others, which must not act on the terminal.
        printable = "".join(c if c.isprintable() else "\ufffd" for c in note)
        click.echo(f"note: {printable}", err=True)
    several = "s" if len(read.rows) != 1 else ""
    click.echo(f"{out}: {len(read.rows)} row{several}, {size(len(page))}")
    if show:
        click.launch(str(out.absolute()))


def check_page(output: pathlib.Path, option: str) -> None:
    """Raise UsageError if the page that ``option`` names would replace anything but a page, or if
    its name is that of another kind of file."""
    with contextlib.suppress(OSError):  # what is not there is not lost; the rest fails on writing
        if output.is_file():
            with open_regular(output) as file:
                start = file.read(4096)
            if start and b'<meta name="generator" content="moe-mobile report">' not in start:
                raise UsageError(
                    "holds something other than a page",
                    file=output,
                    remedy=f"Name another file with {option}, or remove it",
                )
    if output.suffix.lower() in _OTHERS:
        raise UsageError(
            "the page is HTML", file=output, remedy=f"Name a file such as page.html with {option}"
        )
