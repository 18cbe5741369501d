# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile report`."""

from __future__ import annotations

import pathlib

import click

from moe_mobile.bundle.files import write_file
from moe_mobile.cli.options import echo_json, examples, json_option
from moe_mobile.cli.text import size
from moe_mobile.report.load import read_results


@click.command(
    epilog=examples(
        "moe-mobile bench olmoe --device any --out phone.jsonl && moe-mobile report phone.jsonl",
        "moe-mobile report before.jsonl after.jsonl -o change.html --title 'O_DIRECT on UFS 4'",
        "moe-mobile report phone.jsonl --json        # the comparison, for scripts",
    )
)
@click.argument(
    "results",
    nargs=-1,
    required=True,
    type=click.Path(path_type=pathlib.Path, allow_dash=True),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    default=pathlib.Path("report.html"),
    show_default=True,
    help="The page to write.",
)
@click.option("--title", help="Of the page.  [default: the names of the files]")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@json_option
def command(
    results: tuple[pathlib.Path, ...],
    output: pathlib.Path,
    title: str | None,
    show: bool,
    as_json: bool,
) -> None:
    """Make one self-contained page of what `bench` wrote: speed, latency of every token, cache,
    memory, temperature, energy, and comparisons of rows that were measured in the same way.

    Reads JSON lines and JSON; - is standard input. Rows with every token (`bench --out`, or
    --tokens) show the most. With --json nothing is written.
    """
    from moe_mobile.report.page import make_page, summary

    read = read_results(results)
    if as_json:
        echo_json(summary(read))
        return
    names = ", ".join(path.stem for path in results)
    page = make_page(read, title or f"moe-mobile bench: {names}").encode()
    write_file(output, lambda file: file.write(page))
    for note in read.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{output}: {len(read.rows)} rows, {size(len(page))}")
    if show:
        click.launch(str(output.absolute()))
