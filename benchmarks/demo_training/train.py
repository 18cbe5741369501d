# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop: deterministic given its inputs, and resumable with the identical result."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.demo_training import checkpoint
from benchmarks.demo_training.evaluate import perplexity_and_usage
from benchmarks.demo_training.model import DemoModel
from benchmarks.demo_training.optim import Optimisers
from benchmarks.demo_training.rows import Rows
from benchmarks.demo_training.settings import Settings, Shape


def make_deterministic(threads: int) -> None:
    """Fix everything the result depends on, apart from its inputs and the kind of machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Trainer:
    """One training run over ``stream`` (int64 ``[tokens]``, all domains one after the other)."""

    def __init__(
        self, shape: Shape, settings: Settings, stream: Tensor, device: str | None = None
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.settings = settings
        self.model = DemoModel(shape, settings.seed).to(self.device)
        self.optimisers = Optimisers(self.model, settings)
        self.stream = stream
        self.rows: dict[int, Rows] = {}
        self.done = 0

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        settings = self.settings
        length = settings.row(step, self.model.shape.context)
        if length not in self.rows:
            count = settings.tokens_per_step // length
            self.rows[length] = Rows(self.stream, length, count, settings.seed + length)
        long_from = settings.steps - settings.long_steps
        index = step - long_from if step >= long_from else step
        ids, target = self.rows[length].take(index)
        return ids.to(self.device), target.to(self.device)

    def step(self) -> tuple[float, float]:
        """Train one step; returns its next-token loss (nats) and balance loss."""
        ids, target = self._batch(self.done)
        loss, (balance, lift) = self.model.loss(ids, target)
        total = loss + self.settings.balance * balance
        if weight := self.settings.lift_at(self.done):
            total = total + weight * lift
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers.step(self.settings.rate(self.done))
        self.done += 1
        return loss.item(), balance.item()

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on."""
        return {
            "settings": dataclasses.asdict(self.settings),
            "shape": dataclasses.asdict(self.model.shape),
            "done": self.done,
            "stream_tokens": len(self.stream),
            "model": self.model.state_dict(),
            "optimisers": self.optimisers.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`.

        The settings must be the same; the number of steps may differ while the part of the run
        that does not depend on it lasts.
        """
        ended = ("steps", "decay_steps", "ease_after", "ease_steps", "long_steps")
        mine, saved = dataclasses.asdict(self.settings), dict(state["settings"])
        early = state["done"] <= min(self.settings.fixed_until, Settings(**saved).fixed_until)
        for name in ended if early else ():
            del mine[name], saved[name]
        shape = dataclasses.asdict(self.model.shape)
        same = mine == saved and shape == state["shape"]
        if not same or state["stream_tokens"] != len(self.stream):
            raise ValueError("the saved training state belongs to other settings or other text")
        self.model.load_state_dict(state["model"])
        self.optimisers.restore(state["optimisers"])
        self.done = state["done"]


def run(
    trainer: Trainer,
    out: pathlib.Path,
    held: Mapping[str, Tensor],
    tokenizer: pathlib.Path,
    say: Callable[[str], None],
    *,
    evaluate_every: int = 250,
    save_seconds: float = 180.0,
    log_every: int = 20,
) -> None:
    """Train to the end, saving the state in ``out/state.pt`` and checkpoints in ``out/checkpoint``.

    Every ``evaluate_every`` steps a part of the held-out streams (``held``: domain name to int64
    ``[tokens]``) is evaluated and a checkpoint is exported.
    """
    out.mkdir(parents=True, exist_ok=True)
    settings, context = trainer.settings, trainer.model.shape.context
    saved = time.monotonic()
    began, trained, aside = time.monotonic(), 0, 0.0
    losses: list[float] = []
    while trainer.done < settings.steps:
        loss, balance = trainer.step()
        losses.append(loss)
        trained += settings.tokens_per_step
        last = trainer.done == settings.steps
        if trainer.done % log_every == 0 or last:
            speed = trained / (time.monotonic() - began - aside)
            left = (settings.steps - trainer.done) * settings.tokens_per_step / speed
            say(
                f"step {trainer.done}/{settings.steps} loss {sum(losses) / len(losses):.4f} "
                f"balance {balance:.3f} rate {settings.rate(trainer.done - 1):.2e} "
                f"{speed:.0f} tokens/s {left / 60:.0f} min left"
            )
            losses.clear()
        paused = time.monotonic()
        if trainer.done % evaluate_every == 0 or last:
            length = settings.row(trainer.done - 1, context)
            results = []
            used = torch.zeros(trainer.model.shape.layers, trainer.model.shape.experts)
            for name, tokens in held.items():
                perplexity, usage = perplexity_and_usage(trainer.model, tokens[:16384], length)
                results.append(f"{name} {perplexity:.2f}")
                used += usage
            share = used / used.mean(1, keepdim=True)
            least = " ".join(f"{value:.2f}" for value in share.min(1).values.tolist())
            say(f"eval {trainer.done} rows of {length}: {', '.join(results)}; least share {least}")
            checkpoint.export(trainer.model, out / "checkpoint", settings.balance, tokenizer)
        if last or time.monotonic() - saved > save_seconds:
            checkpoint.save_state(out / "state.pt", trainer.state())
            saved = time.monotonic()
        aside += time.monotonic() - paused
