# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile generate`."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from moe_mobile.base.routings import lossy_causes
from moe_mobile.base.terminal import without_controls
from moe_mobile.base.text import percent
from moe_mobile.base.tokenizer import TOKENIZER
from moe_mobile.bench.results import phase_rates
from moe_mobile.cli.commands import cli_command, group_of, option
from moe_mobile.cli.options import (
    CacheOptions,
    Number,
    ReadingOptions,
    bundle_argument,
    cache_options,
    device_option,
    echo_json,
    engine_settings,
    json_option,
    reading_options,
)
from moe_mobile.cli.output import notes_of
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.source import PromptOptions, Text, prompt_options
from moe_mobile.cli.tuned import settings_option
from moe_mobile.device.select import open_device
from moe_mobile.errors import UsageError
from moe_mobile.text.detokenizer import Detokenizer
from moe_mobile.text.tokenizer import BundleText

if TYPE_CHECKING:
    from moe_mobile.runner import Runner
    from moe_mobile.text.chat import Message


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when to stop: members of the runner's `generate` request."""

    max_new_tokens: int = option(
        "-n",
        "--max-new-tokens",
        type=click.IntRange(1),
        default=128,
        help="Stop after this many tokens.",
    )
    temperature: float = option(
        "--temperature",
        type=Number(0),
        default=0.0,
        help="0 takes the likeliest token each time.",
    )
    top_k: int = option(
        "--top-k",
        type=click.IntRange(0),
        default=0,
        help="Sample among this many likeliest tokens; 0 among all.",
    )
    top_p: float = option(
        "--top-p",
        type=Number(0, 1, min_open=True),
        default=1.0,
        help="Sample among the likeliest tokens that together have this probability.",
    )
    seed: int = option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        help="Seed of the sampling: the same seed gives the same tokens.",
    )
    ignore_eos: bool = option(
        "--ignore-eos", is_flag=True, help="Continue after the end-of-text token."
    )

    def as_request(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        stop = {name: values.pop(name) for name in ("max_new_tokens", "ignore_eos")}
        return stop | {"sampling": values}


@cli_command(
    'moe-mobile generate demo -p "Once upon a time"',
    "moe-mobile generate demo -f prompt.txt -n 200 --temperature 0.8 --top-p 0.95 --seed 7",
    'moe-mobile generate demo -p "Hello" --cache 25% --json',
    'moe-mobile generate out/qwen3-moe --chat -p "Why is the sky blue?"',
    'moe-mobile generate demo -p "Hello" --cache 25% --routing cache-prior:auto',
    "moe-mobile generate demo --token-ids 5,17,9       # a bundle without a tokenizer",
)
@bundle_argument
@settings_option
@prompt_options
@click.option(
    "--chat",
    is_flag=True,
    help="Treat the text as a user's message, and write it with the model's chat template.",
)
@group_of(Sampling, "sampling")
@cache_options
@reading_options
@device_option
@click.option("-v", "--verbose", is_flag=True, help="Show the memory plan, on stderr.")
@json_option
def command(
    bundle: pathlib.Path,
    prompt: PromptOptions,
    chat: bool,
    sampling: Sampling,
    cached: CacheOptions,
    reading: ReadingOptions,
    device: str | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Continue a prompt with a bundle's model, streaming text to stdout as it comes.

    One line of statistics follows on stderr.
    """
    text: Text | Sequence[Message] = prompt.read()
    if chat:
        if not isinstance(text, str):
            raise UsageError(
                "a message is a text, not token ids",
                setting="--chat",
                remedy="Use --prompt or --file, or leave out --chat",
            )
        text = [{"role": "user", "content": text}]
    answer = run(
        bundle,
        text,
        sampling,
        engine_settings(bundle, reading, cached).as_request(),
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
    prompt: Text | Sequence[Message],
    sampling: Sampling,
    settings: Mapping[str, Any],
    *,
    show: bool,
    device: str | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Generate, with text to stdout as it comes if `show` is set; the object of --json.

    `settings` has the members of the runner's `open` request.
    """
    text = BundleText(bundle)
    is_text = isinstance(prompt, str) or any(isinstance(item, Mapping) for item in prompt)
    ids = text.encode(cast("str | Sequence[Message]", prompt)) if is_text else prompt
    if not ids:
        raise UsageError("the prompt is empty", remedy="Give at least one word")
    # Token ids are shown as text too if the bundle can.
    can = is_text or (bundle / TOKENIZER).is_file()
    detokenizer = text.stream(cast(list[int], ids)) if can else None
    place = open_device(device)
    with ProgressBar() as progress:
        folder = place.place(bundle, progress)
        stream = _Stream(detokenizer, progress, show)
        with place.runner() as runner:
            info = _open(runner, folder, settings, progress, verbose)
            with stream:
                result = runner.request(
                    "generate",
                    token_ids=ids,
                    **sampling.as_request(),
                    progress=progress,
                    on_token=stream.take,
                )
    return {
        **_summary(result["stats"]),
        "new_tokens": len(stream.token_ids),
        "bundle_hash": info["bundle_hash"],
        "device": place.serial,
        "settings": info["settings"],
        "routing": info["routing"],
        "prompt_tokens": len(ids),
        "token_ids": stream.token_ids,
        "text": None if detokenizer is None else "".join(stream.pieces),
        "stop": result["stop"],
        "stats": result["stats"],
    }


def _open(
    runner: Runner,
    folder: str,
    settings: Mapping[str, Any],
    progress: ProgressBar,
    verbose: bool,
) -> dict[str, Any]:
    """The engine's answer, after its plan and notes were shown."""

    def show_plan(plan: dict[str, Any]) -> None:
        progress.close()
        if verbose:
            click.echo(plan["text"], err=True)

    info = runner.request(
        "open", bundle=folder, settings=settings, progress=progress, planned=show_plan
    )
    progress.close()
    for note in notes_of(info):
        click.echo(f"note: {note}", err=True)
    return info


class _Stream:
    """Collects tokens, and shows them on stdout as they come."""

    def __init__(self, detokenizer: Detokenizer | None, progress: ProgressBar, show: bool) -> None:
        self._detokenizer, self._progress, self._show = detokenizer, progress, show
        self.token_ids: list[int] = []
        self.pieces: list[str] = []

    def take(self, token: int) -> None:
        self._progress.close()
        self.token_ids.append(token)
        self._emit(f"{token} " if self._detokenizer is None else self._detokenizer.step(token))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._detokenizer is not None:
                self._emit(self._detokenizer.finish())
        finally:
            # Also if it was stopped: what is printed next starts on a line of its own.
            if self._show and self.pieces:
                sys.stdout.write("\n")
                sys.stdout.flush()

    def _emit(self, piece: str) -> None:
        self.pieces.append(piece)
        if self._show:
            # Tokens that a phone made up spell whatever it likes.
            sys.stdout.write(without_controls(piece) if sys.stdout.isatty() else piece)
            sys.stdout.flush()


def _summary(stats: dict[str, Any]) -> dict[str, Any]:
    """What a reader wants to know of a run, as the engine's clock has it."""
    rates = phase_rates(stats["tokens"], "decode")
    prompt = phase_rates(stats["tokens"], "prefill")
    return {
        "ttft_ms": prompt.total_ns / 1e6 if prompt.tokens else None,
        "tokens_per_second": rates.tokens * 1e9 / rates.total_ns if rates.total_ns else None,
        **{name: rates.shares[name] for name in ("hit_rate", "mib_read_per_token", "wait_share")},
    }


def statistics_line(answer: dict[str, Any]) -> str:
    """One line about an answer of :func:`run`."""
    parts = [f"{answer['prompt_tokens']} + {answer['new_tokens']} tokens"]
    if answer["tokens_per_second"] is not None:
        parts.append(f"{answer['tokens_per_second']:.1f} tok/s")
    if answer["ttft_ms"] is not None:
        parts.append(f"first token after {answer['ttft_ms']:.0f} ms")
    if answer["routing"]["lossy"]:
        causes = lossy_causes(answer["routing"]["resolved"], answer["settings"]["precision"])
        parts.append(f"lossy: {' and '.join(causes)}")
    parts += [
        f"cache hits {percent(answer['hit_rate'])}",
        f"{answer['mib_read_per_token']:.2f} MiB read per token",
        f"{percent(answer['wait_share'])} of the time waiting for flash",
    ]
    return "[" + " | ".join(parts) + "]"
