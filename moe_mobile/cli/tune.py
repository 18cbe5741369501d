# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile tune`."""

from __future__ import annotations

import contextlib
import pathlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from moe_mobile.base.outputs import write_output
from moe_mobile.cli import grids
from moe_mobile.cli.commands import again, cli_command, group_of, option
from moe_mobile.cli.options import (
    LabOptions,
    RowsOptions,
    ScoredOptions,
    StreamingOptions,
    device_option,
    echo_json,
    engine_settings,
    json_option,
    streaming_options,
)
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.report import check_page
from moe_mobile.cli.source import (
    CheckpointOptions,
    TextOptions,
    blaming,
    checkpoint_options,
    open_subject,
    refuse_others,
    source_argument,
    source_path,
    text_options,
)
from moe_mobile.cli.tune_text import describe
from moe_mobile.cli.types import OUTPUT, Whole
from moe_mobile.cli.writable import check_outputs, check_writable
from moe_mobile.errors import UsageError

if TYPE_CHECKING:
    from moe_mobile.bench.store import ResultFile
    from moe_mobile.routing.trace import Trace
    from moe_mobile.tune.outcome import Outcome

_TOKENS = 8192
_TRACED_TOKENS = 4096


@dataclass(frozen=True)
class _Search(ScoredOptions):
    """What is searched, and by how many processes."""

    limit: str = option(
        "--quality",
        default="+1%",
        metavar="LIMIT",
        help="Limit of the perplexity: +1% more than exact routing's, or a number.",
    )
    capacity: str = again(
        LabOptions,
        "capacity",
        "--cache",
        help="What the cache holds: shares of the experts, or experts per layer. A setting is "
        "chosen for each.",
    )
    routings: tuple[str, ...] = again(
        LabOptions,
        "routings",
        default=(),
        help="Try these instead of the usual ones; may be given several times. exact is always "
        "scored.",
    )
    drop_cold: str | None = option(
        "--drop-cold",
        metavar="F,...",
        help="Also try all of them with each +drop-cold:F.",
    )
    measure_speed: bool = option(
        "--measure-speed",
        is_flag=True,
        help="Measure tokens per second of the best accepted settings, in turns, and let that "
        "decide.",
    )
    jobs: int | None = option(
        "--jobs",
        type=Whole(1),
        help="Settings to score at the same "
        "time.  [default: one per core, as many as fit into memory]",
    )
    ray: str | None = option(
        "--ray",
        metavar="ADDRESS",
        help="Score on a Ray cluster: auto, HOST:PORT, or local (pip install 'moe-mobile[ray]').",
    )

    def drops(self) -> list[str]:
        """Raises UsageError for what +drop-cold: does not take."""
        if self.drop_cold is None:
            return []
        return grids.values("--drop-cold", self.drop_cold, _drop)


@dataclass(frozen=True)
class _Kept(RowsOptions):
    """Rows that are scored, and next to them what is measured."""

    @property
    def speeds(self) -> pathlib.Path | None:
        """The file of what --measure-speed measures."""
        return None if self.rows is None else self.rows.with_name(self.rows.name + ".speed")

    def open_speeds(self, files: contextlib.ExitStack) -> ResultFile | None:
        """That file, if rows are kept."""
        from moe_mobile.bench.store import ResultFile

        if self.speeds is None:
            return None
        return files.enter_context(contextlib.closing(ResultFile(self.speeds, resume=self.resume)))


@dataclass(frozen=True)
class _Written:
    """The files that are written in the end."""

    save_settings: pathlib.Path | None = option(
        "--save-settings",
        type=OUTPUT,
        help="Write the choice to this file, for --settings of other commands.",
    )
    report: pathlib.Path | None = option(
        "--report", type=OUTPUT, help="Write a page about the search."
    )


@cli_command(
    "moe-mobile tune demo --save-settings demo.json     # the demo model has a text of its own",
    "moe-mobile tune olmoe -f chat.txt --save-settings olmoe.json --report olmoe.html",
    "moe-mobile tune olmoe --quality +2% -f chat.txt",
    "moe-mobile tune olmoe -f chat.txt --cache 25%,50% --out olmoe.jsonl",
    "moe-mobile tune olmoe -f chat.txt --out olmoe.jsonl --resume --measure-speed",
    "moe-mobile tune olmoe -f chat.txt --routing exact --drop-cold 0.5,0.75",
    "moe-mobile tune olmoe -f chat.txt --ray auto    # on a cluster",
    'moe-mobile generate olmoe -p "Once" --settings olmoe.json',
)
@source_argument
@text_options
@group_of(_Search, "search")
@streaming_options
@device_option
@checkpoint_options
@group_of(_Kept, "kept")
@group_of(_Written, "written")
@json_option
def command(
    source: str,
    text: TextOptions,
    search: _Search,
    reading: StreamingOptions,
    device: str | None,
    checkpoint: CheckpointOptions,
    kept: _Kept,
    written: _Written,
    as_json: bool,
) -> None:
    """Find the routing that reads least within a quality limit.

    A text is scored under exact routing and many others, token by token with the live cache. Of
    those that are surely within the limit, the one that reads the fewest experts is chosen, for
    each size of the cache. A routing that the text is too short to judge is not chosen.

    BUNDLE is a bundle's folder. Without --tokens the first 8192 tokens of the text are scored.
    MODEL is a checkpoint, as for `quality`; there are no settings to write for it.
    """
    _check(source, text, search, device, kept, written)
    # They import numpy: only now, so that --help and wrong options answer at once.
    from moe_mobile.base.routings import split_precisions
    from moe_mobile.tune.choice import parse_limit
    from moe_mobile.tune.search import search as search_for
    from moe_mobile.tune.search import tried_caches, with_measured_speeds, workers_for

    limit, capacities, drops = parse_limit(search.limit), search.capacities(), search.drops()
    given = text.read() if text.given else None
    # Of the demo model's own text, only a part can be wrong.
    origin = text.option if text.given else "--tokens"
    with ProgressBar() as progress:
        settings = engine_settings(pathlib.Path(source), reading)
        subject = open_subject(source, device, settings, checkpoint, progress)
        scored = subject.scorer.model
        with blaming(origin):
            ids = subject.ids(given, text.tokens or _TOKENS)
        tried = tried_caches(
            scored,
            search.routings,
            drops,
            capacities,
            pool=search.pool,
            eviction=search.eviction,
            precisions=split_precisions(search.precisions),
        )
        with kept.running() as files, blaming(origin):
            file = kept.open_scores(files)
            speeds = kept.open_speeds(files) if search.measure_speed else None
            workers = workers_for(
                subject, tried, jobs=search.jobs, ray=search.ray, progress=progress
            )
            outcome = search_for(scored, ids, tried, limit, workers, file=file, progress=progress)
            trace = None
            if search.measure_speed or written.report is not None:
                trace = subject.trace(ids[:_TRACED_TOKENS], progress=progress)
            if search.measure_speed and trace is not None:
                outcome = with_measured_speeds(
                    outcome, subject, trace, file=speeds, progress=progress
                )
    _write(outcome, trace, subject.place, written)
    if as_json:
        echo_json(outcome.as_dict() | {"device": subject.place})
        return
    click.echo(describe(outcome))
    if written.save_settings is not None:
        click.echo(f"\n{written.save_settings}: for --settings of generate, bench, info and deploy")
    if written.report is not None:
        click.echo(f"\n{written.report}: a page about all of it")


def _write(outcome: Outcome, trace: Trace | None, place: str | None, written: _Written) -> None:
    if written.save_settings is not None:
        from moe_mobile.tune.settings_file import write_settings

        write_settings(written.save_settings, outcome.settings_file())
    if written.report is not None and trace is not None:
        from moe_mobile.report.tuning import make_page

        write_output(written.report, make_page(outcome, trace, place=place))


def _check(
    source: str,
    text: TextOptions,
    search: _Search,
    device: str | None,
    kept: _Kept,
    written: _Written,
) -> None:
    """Fail for options that contradict each other, and for files that would replace another or
    could not be written after the work."""
    kept.check()
    if search.ray is not None:
        if device is not None:
            raise UsageError(
                "a phone cannot be part of a Ray cluster", remedy="Use --ray or --device"
            )
        from moe_mobile.tune.ray_cluster import check_ray

        check_ray()
    outputs = {
        "--out": kept.rows,
        "--measure-speed": kept.speeds if search.measure_speed else None,
        "--save-settings": written.save_settings,
        "--report": written.report,
    }
    check_outputs(outputs, {"--file": text.path, "BUNDLE|MODEL": source_path(source)})
    if written.report is not None:
        check_page(written.report, "--report")
    check_writable(kept.rows, replaced=False)
    check_writable(written.save_settings, replaced=True)
    check_writable(written.report, replaced=True)
    of_bundles = ("save_settings", "measure_speed", "precisions")
    refuse_others(source, StreamingOptions, but=("context",), also=of_bundles)


def _drop(text: str) -> str:
    """Raises ValueError for what +drop-cold: does not take."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII) is None:
        raise ValueError(f"{text!r} is not a number of 0 or more")
    return text
