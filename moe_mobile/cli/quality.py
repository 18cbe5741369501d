# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile quality`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from moe_mobile.base.text import change_text, percent, size, table
from moe_mobile.cli.commands import again, cli_command, group_of
from moe_mobile.cli.options import (
    LabOptions,
    RowsOptions,
    ScoredOptions,
    StreamingOptions,
    device_option,
    echo_json,
    engine_settings,
    json_option,
    rows_options,
    streaming_options,
)
from moe_mobile.cli.output import check_plot, write_plot
from moe_mobile.cli.progress import ProgressBar
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
from moe_mobile.cli.tune_text import scored_text
from moe_mobile.cli.types import OUTPUT
from moe_mobile.cli.writable import check_outputs, check_writable

if TYPE_CHECKING:
    from moe_mobile.quality.score import Quality, Scorer


@dataclasses.dataclass(frozen=True)
class _Scored(ScoredOptions):
    """The routings and caches with which a text is scored."""

    routings: tuple[str, ...] = again(
        LabOptions,
        "routings",
        default=("cache-prior:auto",),
        help="How experts are chosen; may be given several times. exact is always scored too.",
    )
    pool: str = again(
        LabOptions,
        "pool",
        help="A cache for each layer, or one of the same size for all together. Checkpoints are "
        "scored token by token with the latter, which takes long.",
    )


@cli_command(
    "moe-mobile quality olmoe -f prompt.txt --routing cache-prior:0.2,max-rank:12",
    "moe-mobile quality olmoe -f prompt.txt -n 512 --device any",
    "moe-mobile quality olmoe -f prompt.txt --cache 25%,50%,75% --plot front.html",
    "moe-mobile quality olmoe -f prompt.txt --routing exact --precision low,ranks:1",
    "moe-mobile quality demo -f prompt.txt --routing cache-prior:0.2,J=2     # by transformers",
    "moe-mobile quality Qwen/Qwen3-30B-A3B -f prompt.txt --dtype bfloat16 --out qwen3.jsonl",
)
@source_argument
@text_options
@group_of(_Scored, "lab")
@streaming_options
@device_option
@checkpoint_options
@rows_options
@click.option("--plot", type=OUTPUT, help="Draw perplexity over loads as an HTML page.")
@json_option
def command(
    source: str,
    text: TextOptions,
    lab: _Scored,
    reading: StreamingOptions,
    device: str | None,
    checkpoint: CheckpointOptions,
    kept: RowsOptions,
    plot: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Score a text under routings that know the cache: the quality they cost, the reads they save.

    BUNDLE is a bundle's folder; the engine scores it. MODEL is what `export` takes: a folder with a
    Hugging Face checkpoint, a Hugging Face model id, or the word demo; transformers scores it. The
    text is cut into sequences of --context tokens. Each starts with an empty cache, and all of it
    is decoded: perplexities are those of decoding token by token with the live cache.
    """
    kept.check()
    read = {"--file": text.path, "BUNDLE|MODEL": source_path(source)}
    check_outputs({"--out": kept.rows, "--plot": plot}, read)
    check_plot(plot)
    check_writable(kept.rows, replaced=False)
    refuse_others(source, StreamingOptions, but=("context",), also=("precisions",))
    # They import numpy: only now, so that --help and wrong options answer at once.
    from moe_mobile.base.routings import split_precisions, split_routings
    from moe_mobile.quality.sweep import caches, score_here, sweep

    routings, capacities = split_routings(lab.routings), lab.capacities()
    given = text.read()
    with ProgressBar() as progress:
        settings = engine_settings(pathlib.Path(source), reading)
        subject = open_subject(source, device, settings, checkpoint, progress)
        scorer = subject.scorer
        with blaming(text.option):
            ids = subject.ids(given, text.tokens)
        wanted = caches(
            scorer.model,
            routings,
            [capacity.of(scorer.model.experts) for capacity in capacities],
            pool=lab.pool,
            eviction=lab.eviction,
            precisions=split_precisions(lab.precisions),
        )
        with kept.running() as files, blaming(text.option):
            rows = sweep(
                scorer.model,
                ids,
                wanted,
                score_here(scorer),
                file=kept.open_scores(files),
                progress=progress,
            )
    if plot is not None:
        from moe_mobile.quality.plot import draw_quality

        write_plot(plot, draw_quality(rows, scorer.model.name))
    if as_json:
        echo_json(_document(scorer, rows))
    else:
        click.echo(_text(scorer, rows))


def _exact(rows: Sequence[Quality]) -> list[Quality]:
    """For each row the exact one of its capacity."""
    from moe_mobile.quality.score import exact_of

    exact = exact_of(rows)
    return [exact[row.capacity] for row in rows]


def _document(scorer: Scorer, rows: Sequence[Quality]) -> dict[str, Any]:
    from moe_mobile.quality.score import finite

    model = scorer.model
    return {
        "model": model.name,
        "source": model.source,
        "source_id": model.source_id,
        "precision": model.precision,
        "device": scorer.place,
        "context": model.context,
        "moe_layers": len(model.layers),
        "experts": model.experts,
        "top_k": model.top_k,
        "rows": [
            {
                **{name: value for name, value in row.as_dict().items() if name != "blocks"},
                "capacity_share": row.capacity / row.experts,
                "change": finite(row.change_from(exact)),
                "change_error": finite(row.change_error(exact)),
            }
            for row, exact in zip(rows, _exact(rows), strict=True)
        ],
        "notes": _notes(rows),
    }


def _notes(rows: Sequence[Quality]) -> list[str]:
    return list(dict.fromkeys(f"{row.requested}: {row.note}" for row in rows if row.note))


def _text(scorer: Scorer, rows: Sequence[Quality]) -> str:
    model = scorer.model
    header = ["routing", "lossy", "per layer", "hits", "loads/token-layer", "changed"]
    drops = any(row.dropped for row in rows)
    # Loads of experts in several precisions are not alike.
    mixed = any(row.expert_precision != "full" for row in rows)
    header += [*["dropped"] * drops, *["bytes/token"] * mixed, "perplexity", "change"]
    cells = [
        [
            row.label,
            "lossy" if row.lossy else "",
            f"{row.capacity} ({100 * row.capacity / row.experts:.0f} %)",
            percent(row.hit_rate),
            f"{row.loads_per_token_layer:.3f}",
            percent(row.changed_share),
            *([percent(row.dropped_share)] * drops),
            *([size(round(row.bytes_read / row.tokens))] * mixed),
            f"{row.perplexity:.4f}",
            "" if row is exact else change_text(row.change_from(exact), row.change_error(exact)),
        ]
        for row, exact in zip(rows, _exact(rows), strict=True)
    ]
    lines = [
        scored_text(model, rows[0]),
        "",
        table(header, cells, left=2),
        *(f"note: {note}" for note in _notes(rows)),
    ]
    return "\n".join(lines)
