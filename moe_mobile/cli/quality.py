# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile quality`."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from moe_mobile.base.text import percent, table
from moe_mobile.cli.options import (
    device_option,
    echo_json,
    engine_request,
    examples,
    json_option,
    uncached_engine_options,
)
from moe_mobile.cli.output import check_plot, write_plot
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.source import (
    FOR_CHECKPOINTS,
    bundle_ids,
    checkpoint_ids,
    checkpoint_options,
    given_text,
    is_bundle,
    refuse_options,
    source_argument,
    source_path,
    text_options,
)
from moe_mobile.cli.writable import check_outputs, check_writable, opened_path, resumable
from moe_mobile.errors import CancelledError, MoeMobileError, UsageError

if TYPE_CHECKING:
    from moe_mobile.cli.source import Text
    from moe_mobile.quality.file import QualityFile
    from moe_mobile.quality.score import Cache, Quality, Scorer

# The options of bundles; the others are for checkpoints too.
_FOR_BUNDLES = ("device", "residency", "lanes", "threads", "packed_dir")


@click.command(
    epilog=examples(
        "moe-mobile quality olmoe -f prompt.txt --routing cache-prior:0.2,max-rank:12",
        "moe-mobile quality olmoe -f prompt.txt -n 512 --device any",
        "moe-mobile quality olmoe -f prompt.txt --capacity 25%,50%,75% --plot front.html",
        "moe-mobile quality demo -f prompt.txt --routing cache-prior:0.2,J=2     # by transformers",
        "moe-mobile quality Qwen/Qwen3-30B-A3B -f prompt.txt --dtype bfloat16 --out qwen3.jsonl",
    )
)
@source_argument
@text_options
@click.option(
    "--routing",
    "routings",
    multiple=True,
    default=("cache-prior:auto",),
    show_default=True,
    metavar="METHOD,...",
    help="How experts are chosen; may be given several times. exact is always scored too.",
)
@click.option(
    "--capacity",
    default="50%",
    show_default=True,
    metavar="LIST",
    help="What the cache holds: shares of the experts, or experts per layer.",
)
@click.option(
    "--pool",
    type=click.Choice(("layer", "global")),
    default="layer",
    show_default=True,
    help="A cache for each layer, or one of the same size for all together. Checkpoints are scored "
    "token by token with the latter, which takes long.",
)
@click.option(
    "--eviction",
    default="lru",
    show_default=True,
    metavar="POLICY",
    help="What leaves the cache: lru, lfu or lfu:DECAY.",
)
@uncached_engine_options
@device_option
@checkpoint_options
@click.option(
    "--out",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help="Keep rows in this file of JSON lines too: each is on disk before the next is scored.",
)
@click.option("--resume", is_flag=True, help="Continue --out: score only what it lacks.")
@click.option(
    "--plot",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help="Draw perplexity over loads as an HTML page.",
)
@json_option
def command(
    source: str,
    prompt: str | None,
    text_file: IO[bytes] | None,
    token_ids: str | None,
    tokens: int | None,
    routings: tuple[str, ...],
    capacity: str,
    pool: str,
    eviction: str,
    device: str | None,
    dtype: str,
    torch_device: str | None,
    out: pathlib.Path | None,
    resume: bool,
    plot: pathlib.Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score a text under routings that know the cache: what they cost, beside what they save.

    BUNDLE is a bundle's folder, and scored by the engine. MODEL is what `export` takes: a folder
    with a Hugging Face checkpoint, a Hugging Face model id, or the word demo; transformers scores
    it. The text is cut into sequences of --context tokens. Each begins with an empty cache, and is
    decoded whole: perplexities are those of decoding token by token with the live cache.
    """
    if resume and out is None:
        raise UsageError("--resume needs --out", remedy="Name the file to continue with --out")
    read = {"--file": opened_path(text_file), "BUNDLE|MODEL": source_path(source)}
    check_outputs({"--out": out, "--plot": plot}, read)
    check_plot(plot)
    check_writable(out, replaced=False)
    from_bundle = is_bundle(source)
    if from_bundle:
        refuse_options(FOR_CHECKPOINTS, "checkpoint")
    else:
        refuse_options(_FOR_BUNDLES, "bundle")
    # They import numpy: only now, so that --help and wrong options answer at once.
    from moe_mobile.base.routings import split_routings
    from moe_mobile.quality.file import QualityFile
    from moe_mobile.routing.replay import parse_capacity

    wanted = list(dict.fromkeys(["exact", *split_routings(routings)]))
    capacities = [parse_capacity(part) for part in capacity.split(",")]
    text = given_text(prompt, text_file, token_ids)
    with ProgressBar() as progress:
        if from_bundle:
            scorer, ids = _open_bundle(source, device, text, settings, progress)
        else:
            model = (source, dtype, torch_device, settings["context"])
            scorer, ids = _open_checkpoint(model, text, progress)
        sizes = dict.fromkeys(item.of(scorer.model.experts) for item in capacities)
        caches = _caches(scorer, wanted, list(sizes), pool, eviction)
        file = None if out is None else QualityFile(out, resume=resume)
        try:
            rows = list(_scores(scorer, ids[:tokens], caches, file, progress))
        except KeyboardInterrupt:
            raise CancelledError("stopped by the user") from None
        except MoeMobileError as error:
            raise resumable(error, "--out", out) from error
        finally:
            if file is not None:
                file.close()
    if plot is not None:
        from moe_mobile.quality.plot import draw_quality

        write_plot(plot, draw_quality(rows, scorer.model.name))
    if as_json:
        echo_json(_document(scorer, rows))
    else:
        click.echo(_text(scorer, rows))


def _open_bundle(
    source: str, device: str | None, text: Text, settings: dict[str, Any], progress: ProgressBar
) -> tuple[Scorer, list[int]]:
    from moe_mobile.quality.engine import EngineSource

    ids = bundle_ids(pathlib.Path(source), text)
    pairs = tuple(sorted(engine_request(settings, pathlib.Path(source)).items()))
    return EngineSource(source, device, pairs).open(progress), ids


def _open_checkpoint(
    model: tuple[str, str, str | None, int | None], text: Text, progress: ProgressBar
) -> tuple[Scorer, list[int]]:
    # Imports torch.
    from moe_mobile.quality.transformers_source import TransformersScorer, TransformersSource
    from moe_mobile.routing.transformers_model import open_checkpoint

    checkpoint = open_checkpoint(model[0])
    ids = checkpoint_ids(checkpoint, text)
    return TransformersScorer(checkpoint, TransformersSource(*model), progress), ids


def _caches(
    scorer: Scorer, routings: Sequence[str], sizes: Sequence[int], pool: str, eviction: str
) -> list[Cache]:
    """Capacity by capacity, exact routing first; all are checked before the first is scored."""
    from moe_mobile.quality.score import Cache, open_run

    caches = [
        Cache(routing, size, pool, eviction) for size, routing in itertools.product(sizes, routings)
    ]
    for cache in caches:
        open_run(scorer.model, cache)
    return caches


def _scores(
    scorer: Scorer,
    ids: list[int],
    caches: Sequence[Cache],
    file: QualityFile | None,
    progress: ProgressBar,
) -> Iterator[Quality]:
    from moe_mobile.quality.file import score_key
    from moe_mobile.quality.score import measure_quality, sequences_of

    sequences = sequences_of(ids, scorer.model)
    tokens = sum(map(len, sequences))
    keys = [score_key(scorer.model, sequences, cache) for cache in caches]
    if file is not None:  # a line that cannot be taken is told before anything is scored
        for key, cache in zip(keys, caches, strict=True):
            file.take(key, scorer.model, sequences, cache)
    for index, (key, cache) in enumerate(zip(keys, caches, strict=True)):
        if file is not None and key in file.scores:
            yield file.scores[key]
            continue

        def report(done: int, total: int, index: int = index, cache: Cache = cache) -> None:
            progress("score", index * tokens + done, len(caches) * tokens, cache.routing)

        row = measure_quality(scorer, ids, cache, progress=report)
        if file is not None:
            file.append(key, scorer.model, row)
        yield row


def _exact(rows: Sequence[Quality]) -> list[Quality]:
    """For each row the exact one of its capacity."""
    exact = {row.capacity: row for row in rows if row.requested == "exact"}
    return [exact[row.capacity] for row in rows]


def _change(row: Quality, exact: Quality) -> str:
    if row.requested == "exact":
        return ""
    change, error = row.change_from(exact), row.change_error(exact)
    return f"{100 * change:+.2f}" + ("" if error is None else f" ± {100 * error:.2f}") + " %"


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
    header += [*["dropped"] * drops, "perplexity", "change"]
    cells = [
        [
            row.routing,
            "lossy" if row.lossy else "",
            f"{row.capacity} ({100 * row.capacity / row.experts:.0f} %)",
            percent(row.hit_rate),
            f"{row.loads_per_token_layer:.3f}",
            percent(row.changed_share),
            *([percent(row.dropped_share)] * drops),
            f"{row.perplexity:.4f}",
            _change(row, exact),
        ]
        for row, exact in zip(rows, _exact(rows), strict=True)
    ]
    lines = [
        f"{model.name}, {model.source} in {model.precision}: {len(model.layers)} MoE layers, the "
        f"best {model.top_k} of {model.experts} experts; {rows[0].predictions} of "
        f"{rows[0].tokens} tokens predicted; pool: {rows[0].pool}, eviction: {rows[0].eviction}",
        "",
        table(header, cells, left=2),
        *(f"note: {note}" for note in _notes(rows)),
    ]
    return "\n".join(lines)
