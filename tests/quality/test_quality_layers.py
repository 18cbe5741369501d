# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a routed layer of transformers computes, against the definition: loops over experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moe_mobile.base.router import RouterSpec
from moe_mobile.quality.transformers_routing import RoutedModel, gate_weights
from moe_mobile.routing.facts import MoeFacts
from moe_mobile.routing.run import RoutingRun
from moe_mobile.routing.transformers_model import find_routers
from tests.oracles.routing import Replay, RouterModel, Setup, replay
from tests.tiny import EXPERTS, TOP_K, tiny_model, tiny_prompt

Array = NDArray[np.float64]
CAPACITY = 4
SETUPS: dict[str, dict[str, Any]] = {
    "exact": {},
    "cache-prior:0.4,J=1": {"method": "cache-prior", "value": 0.4, "guaranteed": 1},
    "max-rank:5,J=0": {"method": "max-rank", "value": 5},
    "cache-prior:0.3,J=1+drop-cold:0.8": {
        "method": "cache-prior", "value": 0.3, "guaranteed": 1, "drop_cold": 0.8,
    },
}  # fmt: skip


def weights_of(logits: Array, selected: Any, dropped: Any, renormalize: bool) -> Array:
    """One token's, as docs/routing/ defines them."""
    softmax = np.exp(logits - logits.max())
    softmax /= softmax.sum()
    weights = np.array([softmax[expert] for expert in selected])
    if renormalize:
        weights /= weights.sum()
    kept = np.array([0 if gone else w for w, gone in zip(weights, dropped, strict=True)])
    return np.asarray(kept * weights.sum() / kept.sum())


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def swiglu(x: Array, gate: Array, up: Array, down: Array) -> Array:
    return down @ (silu(gate @ x) * (up @ x))


def numbers(tensor: torch.Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def layer_output(mlp: Any, x: Array, decided: Replay, renormalize: bool) -> Array:
    """Of the MoE layer for its inputs [tokens, hidden size]."""
    router = numbers(mlp.gate.weight)
    both, down = numbers(mlp.experts.gate_up_proj), numbers(mlp.experts.down_proj)
    width = both.shape[1] // 2
    rows = []
    for token, row in enumerate(x):
        selected, dropped = decided.selected[token, 0], decided.dropped[token, 0]
        out = np.zeros_like(row)
        weights = weights_of(router @ row, selected, dropped, renormalize)
        for expert, weight in zip(selected, weights, strict=True):
            gate, up = both[expert, :width], both[expert, width:]
            out += weight * swiglu(row, gate, up, down[expert])
        shared = getattr(mlp, "shared_expert", None)
        if shared is not None:
            always = [numbers(getattr(shared, f"{part}_proj").weight) for part in _PARTS]
            share = 1 / (1 + np.exp(-numbers(mlp.shared_expert_gate.weight)[0] @ row))
            out += share * swiglu(row, *always)
        rows.append(out)
    return np.stack(rows)


_PARTS = ("gate", "up", "down")


@pytest.mark.parametrize("routing", SETUPS)
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_a_routed_layer_is_its_definition(family: str, routing: str) -> None:
    model = tiny_model(family)
    # Mixtral has no such setting, and always does.
    renormalize = getattr(model.config, "norm_topk_prob", True)
    run = RoutingRun(experts=EXPERTS, layers=2, top_k=TOP_K, capacity=CAPACITY, routing=routing)
    router = RouterSpec(renormalize=renormalize)
    routed = RoutedModel(model, run, MoeFacts("m", (0, 1), EXPERTS, TOP_K, router), shared=False)
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    logits: dict[int, torch.Tensor] = {}
    for index, router in find_routers(model, (0, 1)).items():
        router.register_forward_hook(
            lambda module, inputs, output, at=index: logits.update({at: output[0]})
        )
        model.model.layers[index].mlp.register_forward_hook(
            lambda module, inputs, output, at=index: seen.update({at: (inputs[0], output)})
        )
    with routed.sequence():
        routed.forward(tiny_prompt(40))
    changed = 0
    for index in (0, 1):
        router_logits = logits[index].numpy()[:, None, :]
        setup = Setup(TOP_K, CAPACITY, RouterModel(), **SETUPS[routing])
        decided = replay(router_logits, setup)
        changed += decided.changed + int(decided.dropped.sum())
        x, out = (numbers(tensor[0]) for tensor in seen[index])
        expected = layer_output(model.model.layers[index].mlp, x, decided, renormalize)
        np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5)
    assert (changed > 10) == (routing != "exact")


@pytest.mark.parametrize("renormalize", [False, True])
def test_weights(renormalize: bool) -> None:
    random = np.random.default_rng(5)
    logits = random.normal(0, 3, (200, 16)).astype(np.float32)
    selected = np.stack([random.permutation(16)[:4] for _ in logits])
    dropped = random.random(selected.shape) < 0.3
    dropped[:, 0] = False
    dropped[::3] = False
    found = gate_weights(
        torch.from_numpy(logits),
        torch.from_numpy(selected),
        torch.from_numpy(dropped),
        RouterSpec(renormalize=renormalize),
    ).numpy()
    expected = [
        weights_of(row.astype(np.float64), chosen, gone, renormalize)
        for row, chosen, gone in zip(logits, selected, dropped, strict=True)
    ]
    np.testing.assert_allclose(found, np.stack(expected), rtol=3e-6)
    assert (found[dropped] == 0).all()


@pytest.mark.parametrize("renormalize", [False, True])
def test_weights_that_underflow_are_not_nan(renormalize: bool) -> None:
    logits = torch.tensor([[300.0, 0.0, -1.0]])
    found = gate_weights(
        logits,
        torch.tensor([[1, 2]]),
        torch.tensor([[False, True]]),
        RouterSpec(renormalize=renormalize),
    )
    assert found.tolist() == [[0, 0]]


def test_a_prompt_is_routed_exactly_and_its_decoding_is_not() -> None:
    model, ids = tiny_model("olmoe"), tiny_prompt(40)

    def hidden(routing: str, prompt: int, parts: tuple[int, ...], shared: bool) -> Array:
        run = RoutingRun(experts=EXPERTS, layers=2, top_k=TOP_K, capacity=3, routing=routing)
        routed = RoutedModel(model, run, MoeFacts("m", (0, 1), EXPERTS, TOP_K), shared=shared)
        rows, at = [], 0
        with routed.sequence():
            for length in parts:
                left = max(0, prompt - at)
                rows.append(routed.forward(ids[at : at + length], prompt=left))
                at += length
        return numbers(torch.cat(rows))

    exact = hidden("exact", 0, (40,), shared=False)
    biased = hidden("cache-prior:0.8", 16, (40,), shared=False)
    np.testing.assert_allclose(biased[:16], exact[:16], rtol=0, atol=1e-6)
    assert np.abs(biased[16:] - exact[16:]).max() > 0.1
    for parts, shared in (((16, 24), False), ((10, 20, 10), False), ((40,), True), ((7, 33), True)):
        other = hidden("cache-prior:0.8", 16, parts, shared)
        np.testing.assert_allclose(other, biased, rtol=0, atol=1e-4)
