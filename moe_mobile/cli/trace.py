# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile trace`."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from moe_mobile.base.text import size
from moe_mobile.cli.commands import again, cli_command, group_of
from moe_mobile.cli.options import (
    CacheOptions,
    ReadingOptions,
    device_option,
    echo_json,
    engine_settings,
    json_option,
    reading_options,
)
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
from moe_mobile.cli.types import PATH, Whole
from moe_mobile.cli.writable import check_outputs, check_writable

if TYPE_CHECKING:
    from moe_mobile.routing.trace import Trace


@dataclass(frozen=True)
class _RecordedOptions:
    """How the engine runs a text that is recorded. It is a prompt, which is always routed exactly:
    the cache decides only how fast."""

    cache: str = again(CacheOptions, "cache")
    precision: str = again(CacheOptions, "precision")
    allow_below_cycle: bool = again(CacheOptions, "allow_below_cycle")


@cli_command(
    "moe-mobile trace olmoe -f prompt.txt -o olmoe.safetensors",
    "moe-mobile trace olmoe -f prompt.txt -o phone.safetensors --device any",
    'moe-mobile trace demo -p "Once upon a time" -o demo.safetensors      # by transformers',
    "moe-mobile trace Qwen/Qwen3-30B-A3B -f prompt.txt -n 2048 --dtype bfloat16 -o qwen3.st",
)
@source_argument
@click.option(
    "-o",
    "--out",
    type=PATH,
    required=True,
    help="The file to write; an existing one is replaced.",
)
@text_options
@click.option(
    "--prompt-tokens",
    type=Whole(0),
    default=0,
    help="Mark this many tokens at the start of each sequence as a prompt, which replays route "
    "exactly.",
)
@group_of(_RecordedOptions, "recorded")
@reading_options
@device_option
@checkpoint_options
@json_option
def command(
    source: str,
    out: pathlib.Path,
    text: TextOptions,
    prompt_tokens: int,
    recorded: _RecordedOptions,
    reading: ReadingOptions,
    device: str | None,
    checkpoint: CheckpointOptions,
    as_json: bool,
) -> None:
    """Record the router logits of every token of a text, for `simulate` and other replays.

    BUNDLE is a bundle's folder; the engine records it. MODEL is what `export` takes: a folder with
    a Hugging Face checkpoint, a Hugging Face model id, or the word demo; transformers records it. A
    text longer than --context becomes several sequences, each without a past.
    """
    refuse_others(source, _RecordedOptions, ReadingOptions, but=("context",))
    check_outputs({"--out": out}, {"BUNDLE|MODEL": source_path(source), "--file": text.path})
    check_writable(out, replaced=True)
    given = text.read()
    with ProgressBar() as progress:
        settings = engine_settings(pathlib.Path(source), reading, recorded)
        subject = open_subject(source, device, settings, checkpoint, progress)
        with blaming(text.option):
            ids = subject.ids(given, text.tokens)
            trace = subject.trace(ids, prompt_tokens=prompt_tokens, progress=progress)
    # Imports numpy: only now, so that --help and wrong options answer at once.
    from moe_mobile.routing.trace import write_trace

    facts = {"path": str(out), "bytes": write_trace(out, trace), **_facts(trace)}
    if as_json:
        echo_json({**facts, "device": subject.place})
    else:
        click.echo(_text(facts, trace))


def _facts(trace: Trace) -> dict[str, Any]:
    tokens, layers, experts = trace.router_logits.shape
    return {
        "tokens": tokens,
        "sequences": list(trace.sequences),
        "prompt_tokens": trace.prompt_tokens,
        "moe_layers": layers,
        "experts": experts,
        "top_k": trace.top_k,
        "renormalize": trace.router.renormalize,
        "scoring": trace.router.score,
        "model": trace.model,
        "source": trace.source,
        "source_id": trace.source_id,
        "precision": trace.precision,
    }


def _text(facts: dict[str, Any], trace: Trace) -> str:
    count = len(trace.sequences)
    rows = [
        ("written", f"{facts['path']}, {size(facts['bytes'])}"),
        ("model", f"{trace.model}: {trace.facts.words}"),
        ("tokens", f"{facts['tokens']} in {count} sequence{'s' if count > 1 else ''}"),
        ("recorded by", f"{trace.source} in {trace.precision} from {trace.source_id}"),
    ]
    return "\n".join(f"{name:<13} {text}" for name, text in rows)
