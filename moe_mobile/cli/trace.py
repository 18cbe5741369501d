# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile trace`."""

from __future__ import annotations

import pathlib
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from moe_mobile.cli.options import (
    device_option,
    echo_json,
    engine_options,
    engine_request,
    examples,
    json_option,
)
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.prompt import TOKENIZER, load_tokenizer, parse_ids, read_text
from moe_mobile.cli.text import size
from moe_mobile.device.select import open_device
from moe_mobile.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from moe_mobile.routing.trace import Trace
    from moe_mobile.routing.transformers_trace import Checkpoint

_MANIFEST = "bundle.json"
# The options of one way to record; the others are for both.
_FOR_CHECKPOINTS = ("dtype", "torch_device")
_FOR_BUNDLES = (
    "device", "cache", "residency", "lanes", "threads", "routing", "packed_dir",
    "allow_below_cycle",
)  # fmt: skip


@click.command(
    epilog=examples(
        "moe-mobile trace olmoe -f prompt.txt -o olmoe.safetensors",
        "moe-mobile trace olmoe -f prompt.txt -o phone.safetensors --device any",
        'moe-mobile trace demo -p "Once upon a time" -o demo.safetensors      # by transformers',
        "moe-mobile trace Qwen/Qwen3-30B-A3B -f prompt.txt -n 2048 --dtype bfloat16 -o qwen3.st",
    )
)
@click.argument("source", metavar="BUNDLE|MODEL")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=pathlib.Path),
    required=True,
    help="The file to write; one that is there is replaced.",
)
@click.option("-p", "--prompt", help="The text.")
@click.option(
    "-f",
    "--file",
    "--text",
    "text_file",
    type=click.File("rb"),
    help="Read it from a file; - is stdin.",
)
@click.option("--token-ids", help="The text as token ids, separated by commas.")
@click.option("-n", "--tokens", type=click.IntRange(1), help="Only the first so many.")
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
@click.option(
    "--dtype",
    type=click.Choice(("float32", "bfloat16")),
    default="float32",
    show_default=True,
    help="Of MODEL: what it computes with.",
)
@click.option(
    "--torch-device",
    metavar="NAME",
    help="Of MODEL: PyTorch's name for where it runs.  [default: cuda, or else cpu]",
)
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
    given = [value is not None for value in (prompt, text_file, token_ids)]
    if sum(given) != 1:
        raise UsageError("give the text once", remedy="Use one of --prompt, --file and --token-ids")
    bundle = pathlib.Path(source)
    is_bundle = (bundle / _MANIFEST).exists()
    _refuse_options(is_bundle)
    text: str | list[int]
    if token_ids is not None:
        text = parse_ids(token_ids)
    else:
        text = prompt if prompt is not None else read_text(text_file)
    with ProgressBar() as progress:
        if is_bundle:
            from moe_mobile.routing.trace_engine import record_engine

            ids = text if isinstance(text, list) else load_tokenizer(bundle).encode(text).ids
            place = open_device(device)
            trace = record_engine(
                place,
                bundle,
                ids[:tokens],
                settings=engine_request(settings),
                prompt_tokens=prompt_tokens,
                progress=progress,
            )
        else:
            # Imports torch: only now, so that --help and wrong options answer at once.
            from moe_mobile.routing.transformers_trace import open_checkpoint, record_transformers

            checkpoint = open_checkpoint(source)
            ids = text if isinstance(text, list) else _tokenizer(checkpoint).encode(text).ids
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
        echo_json({**facts, "device": place.serial if is_bundle else None})
    else:
        click.echo(_text(facts))


def _refuse_options(is_bundle: bool) -> None:
    """Refuses options that would silently do nothing."""
    names, wanted = (_FOR_CHECKPOINTS, "checkpoint") if is_bundle else (_FOR_BUNDLES, "bundle")
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in names and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = max(parameter.opts, key=len)
            raise UsageError(
                f"it is for a {wanted}, and this is none",
                setting=option,
                remedy=f"Leave it out, or name a {wanted}",
            )


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    from tokenizers import Tokenizer

    data = checkpoint.model.files.get(TOKENIZER)
    if data is None:
        raise UsageError(
            f"there is no {TOKENIZER}",
            file=checkpoint.location,
            remedy="Pass --token-ids instead of text",
        )
    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"{TOKENIZER} cannot be read: {error}", file=checkpoint.location
        ) from error


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
