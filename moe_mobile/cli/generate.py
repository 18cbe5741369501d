# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile generate`."""

from __future__ import annotations

import pathlib
import sys
from typing import IO, Any

import click

from moe_mobile.base.terminal import without_controls
from moe_mobile.base.text import percent
from moe_mobile.bench.results import phase_rates
from moe_mobile.cli.detokenize import Detokenizer
from moe_mobile.cli.options import (
    bundle_argument,
    device_option,
    echo_json,
    engine_options,
    engine_request,
    examples,
    json_option,
)
from moe_mobile.cli.output import notes_of
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.prompt import TOKENIZER, load_tokenizer, parse_ids, read_text
from moe_mobile.cli.tuned import settings_option
from moe_mobile.device.select import open_device
from moe_mobile.errors import UsageError

_SAMPLING = ("temperature", "top_k", "top_p", "seed")


@click.command(
    epilog=examples(
        'moe-mobile generate demo -p "Once upon a time"',
        "moe-mobile generate demo -f prompt.txt -n 200 --temperature 0.8 --top-p 0.95 --seed 7",
        'moe-mobile generate demo -p "Hello" --cache 25% --json',
        'moe-mobile generate demo -p "Hello" --cache 25% --routing cache-prior:auto',
        "moe-mobile generate demo --token-ids 5,17,9       # a bundle without a tokenizer",
    )
)
@bundle_argument
@settings_option
@click.option("-p", "--prompt", help="The text to continue.")
@click.option(
    "-f", "--file", "prompt_file", type=click.File("rb"), help="Read it from a file; - is stdin."
)
@click.option("--token-ids", help="The prompt as token ids, separated by commas.")
@click.option(
    "-n",
    "--max-new-tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Stop after this many tokens.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token each time.",
)
@click.option(
    "--top-k",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Sample among this many likeliest tokens; 0 among all.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Sample among the likeliest tokens that together have this probability.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--ignore-eos", is_flag=True, help="Go on after the end-of-text token.")
@engine_options
@device_option
@click.option("-v", "--verbose", is_flag=True, help="Show the memory plan, on stderr.")
@json_option
def command(
    bundle: pathlib.Path,
    prompt: str | None,
    prompt_file: IO[bytes] | None,
    token_ids: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    ignore_eos: bool,
    device: str | None,
    verbose: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Continue a prompt with a bundle's model, streaming text to stdout as it comes.

    One line of statistics follows on stderr.
    """
    given = [value is not None for value in (prompt, prompt_file, token_ids)]
    if sum(given) != 1:
        raise UsageError(
            "give the prompt once", remedy="Use one of --prompt, --file and --token-ids"
        )
    if token_ids is None:
        prompt = prompt if prompt is not None else read_text(prompt_file)
    answer = run(
        bundle,
        prompt if token_ids is None else parse_ids(token_ids),
        {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "ignore_eos": ignore_eos,
        },
        settings,
        device=device,
        show=not as_json,
        verbose=verbose,
    )
    if as_json:
        echo_json(answer)
    else:
        click.echo("\n" + statistics_line(answer), err=True)


def run(
    bundle: pathlib.Path,
    prompt: str | list[int] | None,
    sampling: dict[str, Any],
    settings: dict[str, Any],
    *,
    show: bool,
    device: str | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Generate, with text to stdout as it comes where `show` is set; the object of --json.

    `sampling` and `settings` have the members of the runner's `generate` and `open` requests.
    """
    tokenizer = None
    if isinstance(prompt, str):
        tokenizer = load_tokenizer(bundle)
        prompt_ids = list(tokenizer.encode(prompt).ids)
    else:
        prompt_ids = list(prompt or ())
        if (bundle / TOKENIZER).is_file():
            tokenizer = load_tokenizer(bundle)
    if not prompt_ids:
        raise UsageError("the prompt is empty", remedy="Give at least one word")
    stream = None if tokenizer is None else Detokenizer(tokenizer, prompt_ids)
    new_ids: list[int] = []
    pieces: list[str] = []

    def emit(piece: str) -> None:
        pieces.append(piece)
        if show:
            # Tokens that a phone made up spell whatever it likes.
            sys.stdout.write(without_controls(piece) if sys.stdout.isatty() else piece)
            sys.stdout.flush()

    def take(token: int) -> None:
        progress.close()
        new_ids.append(token)
        emit(f"{token} " if stream is None else stream.step(token))

    def show_plan(plan: dict[str, Any]) -> None:
        progress.close()
        if verbose:
            click.echo(plan["text"], err=True)

    place = open_device(device)
    with ProgressBar() as progress:
        folder = place.place(bundle, progress)
        with place.runner() as runner:
            info = runner.request(
                "open",
                bundle=folder,
                settings=engine_request(settings, bundle),
                progress=progress,
                planned=show_plan,
            )
            progress.close()
            for note in notes_of(info):
                click.echo(f"note: {note}", err=True)
            try:
                result = runner.request(
                    "generate",
                    token_ids=prompt_ids,
                    max_new_tokens=sampling["max_new_tokens"],
                    ignore_eos=sampling.get("ignore_eos", False),
                    sampling={k: v for k, v in sampling.items() if k in _SAMPLING},
                    progress=progress,
                    on_token=take,
                )
                if stream is not None:
                    emit(stream.finish())
            finally:
                # Also where it was stopped: what is printed next starts on a line of its own.
                if show and pieces:
                    sys.stdout.write("\n")
                    sys.stdout.flush()
    return {
        **_summary(result["stats"]),
        "new_tokens": len(new_ids),
        "bundle_hash": info["bundle_hash"],
        "device": place.serial,
        "settings": info["settings"],
        "routing": info["routing"],
        "prompt_tokens": len(prompt_ids),
        "token_ids": new_ids,
        "text": None if stream is None else "".join(pieces),
        "stop": result["stop"],
        "stats": result["stats"],
    }


def _summary(stats: dict[str, Any]) -> dict[str, Any]:
    """What a reader wants to know of a run, as the engine's clock has it."""
    rates = phase_rates(stats["tokens"], "decode")
    prompt = phase_rates(stats["tokens"], "prefill")
    return {
        "ttft_ms": prompt.total_ns / 1e6 if prompt.tokens else None,
        "tokens_per_second": rates.tokens * 1e9 / rates.total_ns if rates.total_ns else None,
        "hit_rate": rates.hit_rate,
        "mib_read_per_token": rates.mib_read_per_token,
        "wait_share": rates.wait_share,
    }


def statistics_line(answer: dict[str, Any]) -> str:
    """One line about an answer of :func:`run`."""
    parts = [f"{answer['prompt_tokens']} + {answer['new_tokens']} tokens"]
    if answer["tokens_per_second"] is not None:
        parts.append(f"{answer['tokens_per_second']:.1f} tok/s")
    if answer["ttft_ms"] is not None:
        parts.append(f"first token after {answer['ttft_ms']:.0f} ms")
    if answer["routing"]["lossy"]:
        parts.append(f"lossy: {answer['routing']['resolved']}")
    parts += [
        f"cache hits {percent(answer['hit_rate'])}",
        f"{answer['mib_read_per_token']:.2f} MiB read per token",
        f"{percent(answer['wait_share'])} of the time waiting for flash",
    ]
    return "[" + " | ".join(parts) + "]"
