# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile export`."""

from __future__ import annotations

import pathlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from moe_mobile.base.terminal import without_controls
from moe_mobile.base.text import size
from moe_mobile.bundle.quantization import (
    DEFAULT_GROUP_SIZE,
    DEFAULT_QUANT,
    EMBEDDINGS,
    GROUP_SIZES,
    KV_DTYPES,
    QUANTS,
    WHOLE_QUANTS,
    QuantizationSettings,
)
from moe_mobile.bundle.unfinished import made_for
from moe_mobile.cli.commands import cli_command, group_of, option
from moe_mobile.cli.describe import packed_bytes, summary
from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.cli.progress import ProgressBar, say
from moe_mobile.cli.types import Choice, NonEmpty, Whole
from moe_mobile.errors import UsageError
from moe_mobile.model.config import MOST_LAYERS, MOST_TOKENS

if TYPE_CHECKING:
    from moe_mobile.export import RandomWeights


@dataclass(frozen=True)
class _Random:
    """A model without a checkpoint."""

    random_weights: str | None = option(
        "--random-weights",
        metavar="PRESET",
        help="Instead of MODEL: real dimensions, random weights; see `moe-mobile models`.",
    )
    layers: int | None = option(
        "--layers",
        type=Whole(1, MOST_LAYERS),
        help="With --random-weights: how many layers.",
    )
    vocab_size: int | None = option(
        "--vocab-size",
        type=Whole(1, MOST_TOKENS),
        help="With --random-weights: a smaller vocabulary, for a quick export.",
    )

    def source(self, paths: tuple[str, ...]) -> tuple[str | RandomWeights, pathlib.Path]:
        """What to export, and the bundle's folder, of the command's arguments.

        Raises UsageError if there are too few or too many.
        """
        if self.random_weights is None:
            if self.layers is not None or self.vocab_size is not None:
                raise UsageError(
                    "it is for --random-weights only",
                    setting="--layers" if self.layers is not None else "--vocab-size",
                    remedy="Leave it out, or give a preset with --random-weights instead of MODEL",
                )
            if len(paths) != 2:
                raise UsageError(
                    "a source and a target are needed",
                    remedy="moe-mobile export MODEL OUT; `moe-mobile export --help` has examples",
                )
            return paths[0], pathlib.Path(paths[1])
        if len(paths) != 1:
            raise UsageError(
                "--random-weights takes the place of the source: one folder is needed",
                remedy="moe-mobile export --random-weights PRESET OUT",
            )
        from moe_mobile.export import RandomWeights

        weights = RandomWeights(self.random_weights, layers=self.layers, vocab_size=self.vocab_size)
        return weights, pathlib.Path(paths[0])


@dataclass(frozen=True)
class _Quantization(QuantizationSettings):
    """The number formats of weights and KV cache."""

    quant: str = option(
        "--quant",
        type=Choice(WHOLE_QUANTS),
        default=DEFAULT_QUANT,
        help="Quantization of the whole model, or of experts+everything else; docs/cli.md helps to "
        "choose.",
    )
    also_quant: str | None = option(
        "--also-quant",
        type=Choice(QUANTS),
        help="A second precision of the experts, which engines can choose by --precision.",
    )
    dense: str | None = option(
        "--dense",
        type=Choice(QUANTS),
        help="Quantization of attention, dense and shared MLPs.  [default: as --quant says]",
    )
    head: str | None = option(
        "--head",
        type=Choice(QUANTS),
        help="Quantization of the output head.  [default: as --quant says]",
    )
    embedding: str | None = option(
        "--embedding",
        type=Choice(EMBEDDINGS),
        help="Quantization of the embedding.  [default: int8, or fp32 with --quant fp32]",
    )
    group_size: int | None = option(
        "--group-size",
        type=Choice([str(size) for size in GROUP_SIZES]),
        callback=lambda _context, _option, size: None if size is None else int(size),
        help=f"Columns that share a scale in 8da4w.  [default: {DEFAULT_GROUP_SIZE}]",
    )
    kv_dtype: str | None = option(
        "--kv-dtype",
        type=Choice(KV_DTYPES),
        help="Number format of the KV cache.  [default: float16, or float32 with --dense fp32]",
    )


class _Progress:
    """Shows a bar, and says first what an interrupted export left, once it is known to go on."""

    def __init__(self, out: pathlib.Path, bar: ProgressBar) -> None:
        self._out, self._bar = out, bar
        self._begun = False

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "export" and not self._begun:
            self._begun = True
            if made := made_for(self._out):
                say(f"note: continues the interrupted export to {self._out}: {made}", err=True)
        self._bar(stage, done, total, detail)


def _show(message: Warning | str, category: type[Warning]) -> None:
    """Shows a warning at once: an export may take hours."""
    if category is UserWarning:
        say(without_controls(f"warning: {message}"), err=True)


@cli_command(
    "moe-mobile export ./OLMoE-1B-7B-0924 olmoe",
    "moe-mobile export allenai/OLMoE-1B-7B-0924 olmoe --quant 8da4w     # smallest",
    "moe-mobile export demo demo-fp32 --quant fp32",
    "moe-mobile export demo demo-two --quant 8da8w --also-quant 8da4w",
    "moe-mobile export --random-weights Qwen1.5-MoE-A2.7B --layers 4 qwen-random",
)
@click.argument("paths", nargs=-1, required=True, metavar="[MODEL] OUT", type=NonEmpty())
@group_of(_Random, "random")
@group_of(_Quantization, "quantization")
@click.option(
    "--max-batch",
    type=Whole(1, 4096),
    help="Largest number of prompt tokens at once.  [default: 256]",
)
@click.option("--name", type=NonEmpty(), help="The model's name in the bundle.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a bundle that is already there, or another export that was interrupted.",
)
@json_option
def command(
    paths: tuple[str, ...],
    random: _Random,
    quantization: _Quantization,
    max_batch: int | None,
    name: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn a Mixture-of-Experts checkpoint into a bundle of ExecuTorch programs.

    MODEL is a folder with a Hugging Face checkpoint, a Hugging Face model id, or the word demo
    for the model that comes with this program. OUT is the bundle's folder. If the disk has no room
    for it, this is said before any work. An interrupted export continues when it is started again
    with the same options and the same checkpoint, or a copy of it, also inside a layer. Any other
    export to OUT then needs --overwrite. It works on all cores that it may use.
    """
    source, out = random.source(paths)
    # Imports torch: only now, so that --help and wrong options answer at once.
    from moe_mobile.bundle import inspect_bundle, read_manifest
    from moe_mobile.export import export_bundle

    with ProgressBar() as bar, warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, category, *_args, **_named: _show(message, category)
        bundle = export_bundle(
            source,
            out,
            quantization,
            max_batch=max_batch,
            name=name,
            overwrite=overwrite,
            progress=_Progress(out, bar),
        )
    facts = inspect_bundle(bundle)
    facts["prepare_bytes"] = packed_bytes(read_manifest(bundle))
    if as_json:
        echo_json(facts)
    else:
        click.echo(summary(facts))
        click.echo(
            f"{'to prepare':<13} about {size(facts['prepare_bytes'], 'up')} more on the machine or "
            "phone that runs it; `prepare --consume` deletes the bundle's experts as it goes"
        )
