# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile tune`."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from moe_mobile.cli import grids
from moe_mobile.cli.options import (
    device_option,
    echo_json,
    examples,
    json_option,
    uncached_engine_options,
)
from moe_mobile.cli.output import write_output
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.report import check_page
from moe_mobile.cli.searched import Searched, SearchedBundle, SearchedCheckpoint
from moe_mobile.cli.source import (
    FOR_CHECKPOINTS,
    checkpoint_options,
    given_text,
    is_bundle,
    refuse_options,
    source_argument,
    source_path,
    text_options,
)
from moe_mobile.cli.tune_text import describe
from moe_mobile.cli.writable import (
    check_outputs,
    check_replaceable,
    check_writable,
    opened_path,
    resumable,
)
from moe_mobile.errors import BudgetError, CancelledError, MoeMobileError, UsageError

if TYPE_CHECKING:
    from moe_mobile.bench.store import ResultFile
    from moe_mobile.quality.file import QualityFile
    from moe_mobile.quality.score import Cache, Quality
    from moe_mobile.routing.replay import Capacity
    from moe_mobile.routing.trace import Trace
    from moe_mobile.tune.choice import Limit
    from moe_mobile.tune.outcome import Outcome

_FOR_BUNDLES = ("device", "residency", "lanes", "threads", "packed_dir", "out", "measure_speed")
_TOKENS = 8192
_TRACED_TOKENS = 4096


@click.command(
    epilog=examples(
        "moe-mobile tune demo --out demo.json               # the demo model has a text of its own",
        "moe-mobile tune olmoe --quality +1% --text chat.txt --out olmoe.json --report olmoe.html",
        "moe-mobile tune olmoe --text chat.txt --cache 25%,50% --rows olmoe.jsonl",
        "moe-mobile tune olmoe --text chat.txt --rows olmoe.jsonl --resume --measure-speed",
        "moe-mobile tune olmoe --text chat.txt --routing exact --drop-cold 0.5,0.75",
        "moe-mobile tune olmoe --text chat.txt --ray auto    # on a cluster",
        'moe-mobile generate olmoe -p "Once" --settings olmoe.json',
    )
)
@source_argument
@click.option(
    "--quality",
    "limit",
    default="+1%",
    show_default=True,
    metavar="LIMIT",
    help="The most that perplexity may be: +1% more than exact routing's, or a number.",
)
@text_options
@click.option(
    "--cache",
    default="50%",
    show_default=True,
    metavar="LIST",
    help="What the cache holds: shares of the experts, or experts per layer. A setting is chosen "
    "for each.",
)
@click.option(
    "--routing",
    "routings",
    multiple=True,
    metavar="METHOD,...",
    help="Try these instead of the usual ones; may be given several times. exact is always scored.",
)
@click.option(
    "--drop-cold", metavar="F,...", help="Try all of them a second time with each +drop-cold:F."
)
@click.option(
    "--pool",
    type=click.Choice(("layer", "global")),
    default="layer",
    show_default=True,
    help="A cache for each layer, or one of the same size for all together.",
)
@click.option(
    "--eviction",
    default="lru",
    show_default=True,
    metavar="POLICY",
    help="What leaves the cache: lru, lfu or lfu:DECAY.",
)
@click.option(
    "--measure-speed",
    is_flag=True,
    help="Measure tokens per second of what is left, in turns, and let that decide.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Settings to score at a time.  [default: a core each, as many as fit into memory]",
)
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="Score on a Ray cluster: auto, HOST:PORT, or local (pip install 'moe-mobile[ray]').",
)
@uncached_engine_options
@device_option
@checkpoint_options
@click.option(
    "--rows",
    "rows_file",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help="Keep rows in this file of JSON lines: each is on disk as soon as it is complete.",
)
@click.option("--resume", is_flag=True, help="Continue --rows: score only what it lacks.")
@click.option(
    "--out",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help="Write the choice to this file, for --settings of other commands.",
)
@click.option(
    "--report",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help="Write a page about all of it.",
)
@json_option
def command(
    source: str,
    limit: str,
    prompt: str | None,
    text_file: IO[bytes] | None,
    token_ids: str | None,
    tokens: int | None,
    cache: str,
    routings: tuple[str, ...],
    drop_cold: str | None,
    pool: str,
    eviction: str,
    measure_speed: bool,
    jobs: int | None,
    address: str | None,
    device: str | None,
    dtype: str,
    torch_device: str | None,
    rows_file: pathlib.Path | None,
    resume: bool,
    out: pathlib.Path | None,
    report: pathlib.Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Find the routing that reads least within a limit of quality.

    A text is scored under exact routing and many others, token by token with the live cache. Of
    those that are surely within the limit, the one that reads the fewest experts is chosen, for
    each size of the cache. What the text is too short to tell of is not chosen.

    BUNDLE is a bundle's folder; of the text, its first 8192 tokens are scored without --tokens.
    MODEL is a checkpoint, as `quality` takes it: then there are no settings to write.
    """
    _check_options(rows_file, resume, address, device)
    speeds_file = None
    if measure_speed and rows_file is not None:
        speeds_file = rows_file.with_name(rows_file.name + ".speed")
    _check_files(source, text_file, rows_file, speeds_file, out, report)
    from_bundle = is_bundle(source)
    refuse_options(*((FOR_CHECKPOINTS, "checkpoint") if from_bundle else (_FOR_BUNDLES, "bundle")))
    # They import numpy: only now, so that --help and wrong options answer at once.
    from moe_mobile.bench.store import ResultFile
    from moe_mobile.quality.file import QualityFile
    from moe_mobile.tune.choice import parse_limit

    allowed, capacities = parse_limit(limit), _capacities(cache)
    given = None
    if any(value is not None for value in (prompt, text_file, token_ids)):
        given = given_text(prompt, text_file, token_ids)
    drops = [] if drop_cold is None else grids.values("--drop-cold", drop_cold, _drop)
    with ProgressBar() as progress:
        model: Searched
        if from_bundle:
            model = SearchedBundle(pathlib.Path(source), device, settings, progress)
        else:
            model = SearchedCheckpoint(source, dtype, torch_device, settings["context"], progress)
        ids = model.ids(given)[: tokens or _TOKENS]
        tried = _tried(model, routings, drops, capacities, pool, eviction)
        try:
            with contextlib.ExitStack() as files:
                file = speeds = None
                if rows_file is not None:
                    file = files.enter_context(
                        contextlib.closing(QualityFile(rows_file, resume=resume))
                    )
                if speeds_file is not None:
                    speeds = files.enter_context(
                        contextlib.closing(ResultFile(speeds_file, resume=resume))
                    )
                outcome = _search(model, ids, tried, allowed, jobs, address, file, progress)
                trace = None
                if measure_speed or report is not None:
                    trace = model.trace(ids[:_TRACED_TOKENS], progress)
                if measure_speed and trace is not None:
                    outcome = _with_speeds(model, outcome, trace, speeds, progress)
        except KeyboardInterrupt:
            raise CancelledError("stopped by the user") from None
        except MoeMobileError as error:
            raise resumable(error, "--rows", rows_file) from error
    if out is not None:
        from moe_mobile.tune.settings_file import write_settings

        write_settings(out, outcome.settings_file())
    if report is not None and trace is not None:
        from moe_mobile.report.tuning import make_page

        write_output(report, make_page(outcome, trace, place=model.place))
    if as_json:
        echo_json(outcome.as_dict() | {"device": model.place})
        return
    click.echo(describe(outcome))
    if out is not None:
        click.echo(f"\n{out}: for --settings of generate, bench, info and deploy")
    if report is not None:
        click.echo(f"\n{report}: a page about all of it")


def _check_options(
    rows_file: pathlib.Path | None,
    resume: bool,
    address: str | None,
    device: str | None,
) -> None:
    if resume and rows_file is None:
        raise UsageError("--resume needs --rows", remedy="Name the file to continue with --rows")
    if address is not None and device is not None:
        raise UsageError("a phone is no part of a Ray cluster", remedy="Use --ray or --device")
    if address is not None:
        from moe_mobile.tune.ray_cluster import check_ray

        check_ray()


def _check_files(
    source: str,
    text_file: IO[bytes] | None,
    rows_file: pathlib.Path | None,
    speeds_file: pathlib.Path | None,
    out: pathlib.Path | None,
    report: pathlib.Path | None,
) -> None:
    """Fail where one would replace another, or could not be written after the work."""
    outputs = {"--rows": rows_file, "--measure-speed": speeds_file, "--out": out}
    read = {"--file": opened_path(text_file), "BUNDLE|MODEL": source_path(source)}
    check_outputs(outputs | {"--report": report}, read)
    if report is not None:
        check_page(report, "--report")
    check_writable(rows_file, replaced=False)
    check_replaceable(out)
    check_writable(report, replaced=True)


def _capacities(text: str) -> list[Capacity]:
    from moe_mobile.routing.replay import parse_capacity

    try:
        return [parse_capacity(part) for part in text.split(",")]
    except UsageError as error:
        raise UsageError(error.cause, setting="--cache", remedy=error.remedy) from None


def _drop(text: str) -> str:
    """Raises ValueError for what +drop-cold: does not take."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII) is None:
        raise ValueError(f"{text!r} is no number of 0 or more")
    return text


def _tried(
    model: Searched,
    routings: Sequence[str],
    drops: Sequence[str],
    capacities: Sequence[Capacity],
    pool: str,
    eviction: str,
) -> list[Cache]:
    """Everything that is scored, checked."""
    from moe_mobile.tune.grid import grid
    from moe_mobile.tune.sweep import caches

    scored = model.scorer.model
    tried = grid(scored.experts, scored.top_k, routings, drops)
    sizes = {capacity.of(scored.experts): capacity.text for capacity in capacities}
    found: list[Cache] = []
    for size, text in sizes.items():
        try:
            found += caches(scored, tried, [size], pool=pool, eviction=eviction)
        except (UsageError, BudgetError) as error:
            if error.setting != "capacity":
                raise
            remedy = (
                f"Give {scored.top_k} to {scored.experts} experts per layer, or a share such as 50%"
            )
            cause = f"{text}: {error.cause}"
            raise type(error)(cause, setting="--cache", remedy=remedy) from error
    return found


def _search(
    model: Searched,
    ids: Sequence[int],
    tried: Sequence[Cache],
    limit: Limit,
    jobs: int | None,
    address: str | None,
    file: QualityFile | None,
    progress: ProgressBar,
) -> Outcome:
    from moe_mobile.tune.choice import candidates
    from moe_mobile.tune.outcome import Outcome, text_hash
    from moe_mobile.tune.ray_cluster import score_on_ray
    from moe_mobile.tune.sweep import sweep

    def check(row: Quality) -> None:
        if row.requested == "exact":
            limit.change(row)  # a limit below it is told before the others are scored

    def report(done: int, total: int) -> None:
        progress("score", done, total, f"{len(tried)} settings")

    if address is None:
        workers = model.workers(jobs, tried)
    else:
        workers = score_on_ray(model.source, address, jobs)
    rows = sweep(model.scorer.model, ids, tried, workers, file=file, progress=report, check=check)
    found = candidates(rows, limit)
    return Outcome(model.scorer.model, limit, text_hash(ids), tuple(found))


def _with_speeds(
    model: Searched,
    outcome: Outcome,
    trace: Trace,
    file: ResultFile | None,
    progress: ProgressBar,
) -> Outcome:
    from moe_mobile.bench.driver import bundle_facts
    from moe_mobile.tune.choice import with_speeds
    from moe_mobile.tune.speed import contenders, measure_speeds

    assert isinstance(model, SearchedBundle)
    sizes = outcome.capacities
    rivals = [one for capacity in sizes for one in contenders(outcome.of(capacity))]
    speeds = measure_speeds(
        model.device,
        bundle_facts(model.bundle),
        rivals,
        trace,
        engine=model.engine,
        file=file,
        progress=progress,
    )
    return dataclasses.replace(outcome, found=tuple(with_speeds(outcome.found, speeds)))
