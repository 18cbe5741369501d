# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle's model that answers prompts, on this machine or a phone, and shows its text."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from moe_mobile.base.routings import lossy_causes
from moe_mobile.base.terminal import without_controls
from moe_mobile.base.text import percent
from moe_mobile.base.tokenizer import TOKENIZER
from moe_mobile.bench.results import phase_rates
from moe_mobile.cli.commands import option
from moe_mobile.cli.output import notes_of
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.types import Number, Whole
from moe_mobile.device.select import open_device
from moe_mobile.errors import UsageError
from moe_mobile.settings import MOST_NUMBER, MOST_SEED
from moe_mobile.text.detokenizer import Detokenizer
from moe_mobile.text.tokenizer import BundleText

if TYPE_CHECKING:
    from moe_mobile.device.interface import Device
    from moe_mobile.runner import Runner


CHAT_TOKENS = 512
"""An answer to a message is given so many tokens: it is read to its end, unlike a text."""


# The engine samples in 32 bits, in which a smaller number could be 0, and a larger one infinite.
_SMALLEST, _LARGEST = 1e-37, 1e38


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when to stop: members of the runner's `generate` request."""

    max_new_tokens: int = option(
        "-n",
        "--max-new-tokens",
        type=Whole(1, MOST_NUMBER),
        default=128,
        help="Stop after this many tokens; answers to chat messages after "
        f"{CHAT_TOKENS} if this is not given.",
    )
    temperature: float = option(
        "--temperature",
        type=Number(0, _LARGEST),
        default=0.0,
        help="0 takes the likeliest token each time.",
    )
    top_k: int = option(
        "--top-k",
        type=Whole(0, MOST_NUMBER),
        default=0,
        help="Sample among this many likeliest tokens; 0 among all.",
    )
    top_p: float = option(
        "--top-p",
        type=Number(_SMALLEST, 1),
        default=1.0,
        help="Sample among the likeliest tokens that together have this probability.",
    )
    seed: int = option(
        "--seed",
        type=Whole(0, MOST_SEED),
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


@dataclass(frozen=True)
class Prompt:
    """Token ids, and what makes text of those that follow; None: nothing does."""

    token_ids: Sequence[int]
    detokenizer: Detokenizer | None

    @staticmethod
    def of_text(text: BundleText, token_ids: Sequence[int]) -> Prompt:
        """Of a text, or of messages."""
        return Prompt(token_ids, text.stream(token_ids))

    @staticmethod
    def of_ids(bundle: pathlib.Path, token_ids: Sequence[int]) -> Prompt:
        """They are shown as text if the bundle can."""
        can = (bundle / TOKENIZER).is_file()
        return Prompt(token_ids, BundleText(bundle).stream(token_ids) if can else None)


class Answerer:
    """An open model; :func:`opened` makes it."""

    def __init__(
        self,
        runner: Runner,
        info: Mapping[str, Any],
        place: Device,
        sampling: Sampling,
        progress: ProgressBar,
        show: bool,
    ) -> None:
        self._runner, self._info, self._place = runner, info, place
        self._sampling, self._progress, self._show = sampling, progress, show
        self._held: list[int] = []  # tokens of the engine's conversation

    def answer(self, prompt: Prompt) -> dict[str, Any]:
        """Generate, with text to stdout as it comes if the model was opened so; the object of
        `generate --json`.

        A prompt that begins with all that was read and generated before is read from there on.
        """
        if not prompt.token_ids:
            raise UsageError(
                "the prompt is empty", setting="prompt", remedy="Give at least one word"
            )
        ids = list(prompt.token_ids)
        held = len(self._held)
        if ids[:held] != self._held or held == len(ids):
            held = 0
        self._held = ids[:held]
        stream = _Stream(prompt.detokenizer, self._progress, self._show)
        with stream:
            result = self._runner.request(
                "generate",
                token_ids=ids[held:],
                continues=held > 0,
                **self._sampling.as_request(),
                progress=self._progress,
                on_token=stream.take,
            )
        self._held = (ids + stream.token_ids)[: result["position"]]
        return {
            **_summary(result["stats"]),
            "new_tokens": len(stream.token_ids),
            "bundle_hash": self._info["bundle_hash"],
            "device": self._place.serial,
            "settings": self._info["settings"],
            "routing": self._info["routing"],
            "prompt_tokens": len(prompt.token_ids),
            "token_ids": stream.token_ids,
            "text": None if prompt.detokenizer is None else "".join(stream.pieces),
            "stop": result["stop"],
            "stats": result["stats"],
        }


@contextlib.contextmanager
def opened(
    bundle: pathlib.Path,
    sampling: Sampling,
    settings: Mapping[str, Any],
    *,
    show: bool,
    device: str | None = None,
    verbose: bool = False,
) -> Iterator[Answerer]:
    """Open a bundle's model. `settings` has the members of the runner's `open` request."""
    place = open_device(device)
    with ProgressBar() as progress:
        folder = place.place(bundle, progress)
        with place.runner() as runner:
            info = _open(runner, folder, settings, progress, verbose)
            yield Answerer(runner, info, place, sampling, progress, show)


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


def cut(answer: dict[str, Any]) -> str | None:
    """Why an answer of :class:`Answerer` ended before the model ended it; None if it did not."""
    if answer["stop"] == "length":
        return f"stopped after {answer['new_tokens']} tokens (-n)"
    return "stopped as the context is full (-c)" if answer["stop"] == "context" else None


def statistics_line(answer: dict[str, Any], end: str | None = None) -> str:
    """One line about an answer of :class:`Answerer`, and how it ended if that is worth a word."""
    parts = [f"{answer['prompt_tokens']} + {answer['new_tokens']} tokens"]
    if end is not None:
        parts.append(end)
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
