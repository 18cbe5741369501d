# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Training parts of the demo model on micro sizes: gradients, determinism, resuming, export."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from benchmarks.demo_training import checkpoint
from benchmarks.demo_training.evaluate import perplexity_and_usage
from benchmarks.demo_training.kernels import experts, tied_loss
from benchmarks.demo_training.model import LIFT_BELOW, DemoModel
from benchmarks.demo_training.optim import orthogonalise
from benchmarks.demo_training.rows import Rows
from benchmarks.demo_training.settings import Settings, Shape
from benchmarks.demo_training.train import Trainer, make_deterministic, run

SHAPE = Shape(
    vocabulary=64,
    hidden=16,
    layers=2,
    experts=4,
    active=2,
    expert_width=8,
    heads=2,
    kv_heads=1,
    head_width=8,
    context=32,
)
SETTINGS = Settings(
    steps=8,
    decay_steps=4,
    ease_after=2,
    ease_steps=6,
    long_steps=3,
    warmup_steps=2,
    tokens_per_step=64,
    short_row=16,
    lift_from=3,
)


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    make_deterministic(2)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def stream(tokens: int = 2000) -> torch.Tensor:
    return torch.randint(0, 64, (tokens,), generator=torch.Generator().manual_seed(5))


def plain_experts(
    x: torch.Tensor,
    chosen: torch.Tensor,
    weight: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    inner = F.silu(torch.einsum("th,ehi->tei", x, gate)) * torch.einsum("th,ehi->tei", x, up)
    every = torch.einsum("tei,eih->teh", inner, down)
    picked = every.gather(1, chosen[:, :, None].expand(-1, -1, x.shape[1]))
    return (picked * weight[:, :, None]).sum(1)


def test_expert_gradients_are_those_of_plain_torch() -> None:
    torch.manual_seed(0)
    tokens, count, hidden, width, active = 40, 6, 12, 5, 3
    make = {"dtype": torch.float64, "requires_grad": True}
    x = torch.randn(tokens, hidden, **make)  # type: ignore[call-overload]
    gate_up = torch.randn(count, hidden, 2 * width, **make)  # type: ignore[call-overload]
    down = torch.randn(count, width, hidden, **make)  # type: ignore[call-overload]
    score = torch.rand(tokens, count, dtype=torch.float64)
    score[:, 2] = -1  # an expert that no token chooses
    weight, chosen = score.topk(active)
    weight.requires_grad_()
    inputs = (x, weight, gate_up, down)
    mine = experts(x, chosen, weight, gate_up, down)
    plain = plain_experts(x, chosen, weight, gate_up, down)
    torch.testing.assert_close(mine, plain)
    out = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad(mine, inputs, out), torch.autograd.grad(plain, inputs, out), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_tied_loss_gradient_is_that_of_cross_entropy() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 20, (50,))
    mine = tied_loss(x, embedding, target, chunk=16)
    plain = F.cross_entropy(x @ embedding.t(), target)
    torch.testing.assert_close(mine, plain)
    for a, b in zip(
        torch.autograd.grad(3 * mine, (x, embedding)),
        torch.autograd.grad(3 * plain, (x, embedding)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_orthogonalise_flattens_the_spectrum() -> None:
    torch.manual_seed(0)
    for size in ((3, 24, 8), (3, 8, 24)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(size)))
        assert values.min() > 0.5
        assert values.max() < 1.5


def test_rows_are_a_function_of_the_step() -> None:
    text = torch.arange(1000)
    a, b = Rows(text, 16, 4, seed=3), Rows(text, 16, 4, seed=3)
    forward = [a.take(i)[0] for i in range(40)]
    assert torch.equal(b.take(37)[0], forward[37])
    assert torch.equal(b.take(2)[0], forward[2])
    ids, target = a.take(5)
    assert ids.shape == (4, 16)
    assert torch.equal(target, ids + 1)
    epoch = torch.cat(forward[: a.steps_per_epoch]).flatten()
    assert len(set(epoch.tolist())) == len(epoch)  # no token twice in an epoch


def test_rate_rises_stays_and_falls_to_nothing() -> None:
    rates = [SETTINGS.rate(step) / SETTINGS.peak_rate for step in range(8)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert SETTINGS.fixed_until == 4
    eased = dataclasses.replace(SETTINGS, ease_after=6, ease_steps=10)
    assert [eased.rate(step) / 1e-2 for step in (4, 5, 6)] == pytest.approx([1, 0.75, 0.5])
    gentle = dataclasses.replace(SETTINGS, ease_after=5, ease_steps=10)
    assert [gentle.rate(step) / 1e-2 for step in (2, 3, 4)] == pytest.approx([1, 1, 0.9])


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_two_runs_are_identical() -> None:
    results = []
    for _ in range(2):
        trainer = Trainer(SHAPE, SETTINGS, stream(), "cpu")
        losses = [trainer.step() for _ in range(3)]
        results.append((losses, weights(trainer)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("stop", [2, 6])
def test_resuming_gives_the_identical_result(tmp_path: pathlib.Path, stop: int) -> None:
    whole = Trainer(SHAPE, SETTINGS, stream(), "cpu")
    for _ in range(SETTINGS.steps):
        whole.step()
    first = Trainer(SHAPE, SETTINGS, stream(), "cpu")
    for _ in range(stop):
        first.step()
    checkpoint.save_state(tmp_path / "state.pt", first.state())
    second = Trainer(SHAPE, SETTINGS, stream(), "cpu")
    second.restore(checkpoint.load_state(tmp_path / "state.pt"))
    while second.done < SETTINGS.steps:
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))


def test_restoring_refuses_other_settings() -> None:
    trainer = Trainer(SHAPE, SETTINGS, stream(), "cpu")
    for _ in range(2):
        trainer.step()
    state = trainer.state()
    longer = Settings(**{**vars(SETTINGS), "steps": 20})
    Trainer(SHAPE, longer, stream(), "cpu").restore(state)  # the rate has not begun to fall
    faster = Settings(**{**vars(SETTINGS), "peak_rate": 1.0})
    with pytest.raises(ValueError, match="other settings"):
        Trainer(SHAPE, faster, stream(), "cpu").restore(state)
    with pytest.raises(ValueError, match="other text"):
        Trainer(SHAPE, SETTINGS, stream(1999), "cpu").restore(state)
    for _ in range(4):
        trainer.step()
    with pytest.raises(ValueError, match="other settings"):
        Trainer(SHAPE, longer, stream(), "cpu").restore(trainer.state())


def test_run_leaves_a_state_and_a_checkpoint(tmp_path: pathlib.Path) -> None:
    trainer = Trainer(SHAPE, SETTINGS, stream(), "cpu")
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    lines: list[str] = []
    held = {"x": stream(128)}
    run(trainer, tmp_path / "out", held, tokenizer, lines.append, evaluate_every=4)
    assert lines[-1].startswith("eval 8 ")
    assert checkpoint.load_state(tmp_path / "out" / "state.pt")["done"] == SETTINGS.steps
    loaded = checkpoint.load_exported(tmp_path / "out" / "checkpoint")
    for a, b in zip(loaded.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b.detach().bfloat16().float())


def test_perplexity_and_usage_count_every_scored_token() -> None:
    model = DemoModel(SHAPE)
    tokens = stream(100)
    perplexity, usage = perplexity_and_usage(model, tokens, 32, tokens_at_once=64)
    windows = tokens[:96].view(3, 32)
    with torch.no_grad():
        logits = model.logits(windows)[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, windows[:, 1:].flatten()).exp().item()
    assert perplexity == pytest.approx(expected, rel=1e-5)
    assert usage.sum(1).tolist() == [96 * SHAPE.active] * SHAPE.layers


def test_lift_acts_on_starved_experts_only() -> None:
    model = DemoModel(dataclasses.replace(SHAPE, active=1))
    with torch.no_grad():  # in the last layer, two experts share all tokens
        model.router[-1, 1] = -model.router[-1, 0]
        model.router[-1, 2:] = 0
    routes: list[torch.Tensor] = []
    _, auxiliary = model.hidden(stream(256).view(8, 32), routes)
    used = torch.bincount(routes[-1].flatten(), minlength=4)
    assert used[2:].sum() == 0
    assert used[:2].min() > LIFT_BELOW * 256 / 4
    auxiliary.lift.backward()  # type: ignore[no-untyped-call]
    assert model.router.grad is not None
    reached = model.router.grad[-1].abs().sum(1) > 0
    assert reached.tolist() == [False, False, True, True]
