# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Each kind of router, from a bundle: the engine computes what the format's definition gives."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moe_mobile import Engine
from moe_mobile.base.router import RouterSpec
from moe_mobile.bundle import read_manifest
from moe_mobile.bundle.writer import to_bytes
from moe_mobile.device.local import LocalDevice
from moe_mobile.routing.trace import read_trace, write_trace
from moe_mobile.routing.trace_engine import record_engine
from tests.bundles import BundleMaker
from tests.engine.agreement import replayed, simulated
from tests.engine.native import logits_after_prompt, same_bits
from tests.oracles.interpreter import Interpreter
from tests.oracles.logits import Logits
from tests.tiny import EXPERTS, TOP_K, tiny_prompt

PROMPT, DECODED = 24, 8
TOLERANCE = 1e-3

# Large enough to change what is selected.
BIAS = tuple(
    tuple(float(b) for b in row)
    for row in np.random.default_rng(5).normal(0, 0.3, (2, EXPERTS)).astype(np.float32)
)
ROUTERS = {
    "softmax": RouterSpec("softmax", renormalize=True),
    "softmax-groups": RouterSpec("softmax", groups=4, top_groups=2, scale=1.5),
    "relu": RouterSpec("relu", scale=0.5),
    # Two experts are eligible, and often only one of them has a logit above 0.
    "relu-groups": RouterSpec("relu", groups=4, top_groups=1),
    "sigmoid": RouterSpec("sigmoid"),
    "sigmoid-bias": RouterSpec("sigmoid", renormalize=True, epsilon=1e-6, bias=BIAS),
    "sigmoid-groups": RouterSpec(
        "sigmoid", True, scale=2.5, epsilon=1e-20, groups=4, top_groups=2, bias=BIAS
    ),
}

METHODS = (
    "exact",
    "max-rank:6,J=1",
    "cumulative:0.95,J=1",
    "cache-prior:1,J=1",
    "exact+drop-cold:1",
)


@pytest.fixture(params=ROUTERS)
def routed(request: pytest.FixtureRequest, bundle: BundleMaker, tmp_path: Path) -> Path:
    """The tiny Mixtral with another router: its programs do not depend on it."""
    made = bundle("mixtral", "fp32")
    for path in made.rglob("*"):
        if path.is_file() and path.name != "bundle.json" and ".packed" not in path.parts:
            (tmp_path / path.relative_to(made)).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, tmp_path / path.relative_to(made))
    manifest = read_manifest(made)
    router = ROUTERS[request.param]
    manifest = replace(manifest, moe=replace(manifest.moe, router=router))
    (tmp_path / "bundle.json").write_bytes(to_bytes(manifest))
    return tmp_path


def logits_of(bundle: Path, cache: str, residency: str = "slots") -> tuple[Logits, Logits]:
    """After each token decoded alone, and after a prompt computed in a batch."""
    prompt = tiny_prompt(PROMPT)
    with Engine(bundle, cache, residency=residency, threads=1, allow_below_cycle=True) as engine:
        return engine.score(prompt), logits_after_prompt(engine, prompt, DECODED)


def test_logits_follow_the_definition(routed: Path) -> None:
    scored, generated = logits_of(routed, "50%")
    prompt = tiny_prompt(PROMPT)
    assert np.abs(scored - Interpreter(routed).logits(prompt).numpy()).max() < TOLERANCE
    ids = prompt + generated.argmax(1)[:-1].tolist()
    expected = Interpreter(routed).logits(ids).numpy()[PROMPT - 1 :]
    assert expected.std() > 0.5
    assert np.abs(generated - expected).max() < TOLERANCE


def test_budgets_and_residencies_change_no_bit(routed: Path) -> None:
    reference = logits_of(routed, "100%", "resident")
    for cache, residency in (("25%", "slots"), ("50%", "slots"), ("25%", "programs")):
        assert same_bits(logits_of(routed, cache, residency), reference), (cache, residency)


@pytest.mark.parametrize("method", METHODS)
def test_engine_and_lab_decide_alike(routed: Path, method: str, tmp_path: Path) -> None:
    """Token by token, over what the model's routers say, from a trace in a file."""
    recorded = record_engine(LocalDevice(), routed, tiny_prompt(96), settings={"threads": 1})
    # For relu these are tokens without experts.
    recorded.router_logits[80:] -= recorded.router_logits[80:].max()
    write_trace(tmp_path / "trace", recorded)
    trace = read_trace(tmp_path / "trace")
    assert trace.router == read_manifest(routed).moe.router
    settings = {"routing": method, "initial_cache": "cold"}
    ours = replayed(routed, trace, 16, cache="50%", pool="layer", **settings)
    assert np.array_equal(ours, simulated(trace, EXPERTS // 2, 16, **settings))
    used = ours[:, :3].sum(1)
    if trace.router.may_select_fewer:
        assert (used[-16:] == 0).all()
        assert len(set(used.tolist())) > 2
    else:
        assert (used == 2 * TOP_K).all()
    eligible = EXPERTS // trace.router.groups * trace.router.top_groups
    assert ours[:, 3].any() == (not method.startswith("exact") and eligible > TOP_K)


def test_the_kinds_differ(bundle: BundleMaker) -> None:
    """Otherwise the tests above would prove little: each router gives other logits."""
    import torch

    from tests.oracles.interpreter import route

    logits = torch.randn(64, EXPERTS, generator=torch.Generator().manual_seed(1))
    seen = set()
    for router in ROUTERS.values():
        manifest = read_manifest(bundle("mixtral", "fp32"))
        members = {name: value for name, value in vars(router).items() if value != ()}
        weights, chosen = route({"top_k": manifest.moe.top_k, "router": members}, 0, logits)
        seen.add((weights.sum().item(), tuple(chosen.flatten().tolist())))
    assert len(seen) == len(ROUTERS)
