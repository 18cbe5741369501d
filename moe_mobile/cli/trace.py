# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile trace`."""

from __future__ import annotations

import pathlib
from typing import IO, TYPE_CHECKING, Any

import click

from moe_mobile.base.text import size
from moe_mobile.cli.options import (
    INITIAL_CACHES,
    device_option,
    echo_json,
    engine_options,
    engine_request,
    examples,
    json_option,
)
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
from moe_mobile.cli.writable import check_outputs, check_replaceable, opened_path
from moe_mobile.device.select import open_device

if TYPE_CHECKING:
    from moe_mobile.routing.trace import Trace

# The options of one way to record; the others are for both.
_FOR_BUNDLES = (
    "device", "cache", "residency", "lanes", "threads", "routing", "pool", "eviction",
    "initial_cache", "packed_dir", "allow_below_cycle",
)  # fmt: skip


@click.command(
    epilog=examples(
        "moe-mobile trace olmoe -f prompt.txt -o olmoe.safetensors",
        "moe-mobile trace olmoe -f prompt.txt -o phone.safetensors --device any",
        'moe-mobile trace demo -p "Once upon a time" -o demo.safetensors      # by transformers',
        "moe-mobile trace Qwen/Qwen3-30B-A3B -f prompt.txt -n 2048 --dtype bfloat16 -o qwen3.st",
    )
)
@source_argument
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=pathlib.Path),
    required=True,
    help="The file to write; one that is there is replaced.",
)
@text_options
@click.option(
    "--prompt-tokens",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Mark so many tokens at the beginning of each sequence as a prompt, which replays route "
    "exactly.",
)
@engine_options
@device_option
@checkpoint_options
@json_option
def command(
    source: str,
    out: pathlib.Path,
    prompt: str | None,
    text_file: IO[bytes] | None,
    token_ids: str | None,
    tokens: int | None,
    prompt_tokens: int,
    device: str | None,
    dtype: str,
    torch_device: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Record the router logits of every token of a text, for `simulate` and other replays.

    BUNDLE is a bundle's folder, and recorded from by the engine. MODEL is what `export` takes: a
    folder with a Hugging Face checkpoint, a Hugging Face model id, or the word demo; transformers
    records from it. A text longer than --context makes several sequences, each without a past.
    """
    from_bundle = is_bundle(source)
    if from_bundle:
        refuse_options(FOR_CHECKPOINTS, "checkpoint")
    else:
        refuse_options(_FOR_BUNDLES, "bundle")
    profile = settings["initial_cache"]
    inputs = {
        "BUNDLE|MODEL": source_path(source),
        "--file": opened_path(text_file),
        "--initial-cache": None if profile in INITIAL_CACHES else pathlib.Path(profile),
    }
    check_outputs({"--out": out}, inputs)
    check_replaceable(out)
    text = given_text(prompt, text_file, token_ids)
    with ProgressBar() as progress:
        if from_bundle:
            from moe_mobile.routing.trace_engine import record_engine

            bundle = pathlib.Path(source)
            ids = bundle_ids(bundle, text)
            place = open_device(device)
            trace = record_engine(
                place,
                bundle,
                ids[:tokens],
                settings=engine_request(settings, bundle),
                prompt_tokens=prompt_tokens,
                progress=progress,
            )
        else:
            # Imports torch: only now, so that --help and wrong options answer at once.
            from moe_mobile.routing.transformers_model import open_checkpoint
            from moe_mobile.routing.transformers_trace import record_transformers

            checkpoint = open_checkpoint(source)
            ids = checkpoint_ids(checkpoint, text)
            trace = record_transformers(
                checkpoint,
                ids[:tokens],
                context=settings["context"],
                dtype=dtype,
                torch_device=torch_device,
                prompt_tokens=prompt_tokens,
                progress=progress,
            )
    from moe_mobile.routing.trace import write_trace

    facts = {"path": str(out), "bytes": write_trace(out, trace), **_facts(trace)}
    if as_json:
        echo_json({**facts, "device": place.serial if from_bundle else None})
    else:
        click.echo(_text(facts))


def _facts(trace: Trace) -> dict[str, Any]:
    tokens, layers, experts = trace.router_logits.shape
    return {
        "tokens": tokens,
        "sequences": list(trace.sequences),
        "prompt_tokens": trace.prompt_tokens,
        "moe_layers": layers,
        "experts": experts,
        "top_k": trace.top_k,
        "renormalize": trace.renormalize,
        "scoring": trace.scoring,
        "model": trace.model,
        "source": trace.source,
        "source_id": trace.source_id,
        "precision": trace.precision,
    }


def _text(facts: dict[str, Any]) -> str:
    count = len(facts["sequences"])
    rows = [
        ("written", f"{facts['path']}, {size(facts['bytes'])}"),
        (
            "model",
            f"{facts['model']}: {facts['moe_layers']} MoE layers, the best {facts['top_k']} of "
            f"{facts['experts']} experts",
        ),
        ("tokens", f"{facts['tokens']} in {count} sequence{'s' if count > 1 else ''}"),
        ("recorded by", f"{facts['source']} in {facts['precision']} from {facts['source_id']}"),
    ]
    return "\n".join(f"{name:<13} {text}" for name, text in rows)
