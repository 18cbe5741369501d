# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Cache-conditional routing in the engine: the lab's decisions, token by token, and no others."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.perplexity import heldout_tokens
from moe_mobile import Engine
from moe_mobile.base.routings import is_lossy
from moe_mobile.device.local import LocalDevice
from moe_mobile.errors import BudgetError, UsageError
from moe_mobile.results import RoutingInfo
from moe_mobile.routing.capacity import parse_capacity
from moe_mobile.routing.profile import CacheProfile, write_profile
from moe_mobile.routing.trace import Trace
from moe_mobile.routing.trace_engine import record_engine
from moe_mobile.settings import CacheSettings
from tests.cli.program import failed, ok, ok_json
from tests.engine.agreement import Counts, counted, replayed, simulated
from tests.engine.native import logits_after_prompt, same_bits
from tests.oracles.logits import Logits

METHODS = (
    "max-rank:8",
    "cumulative:0.8",
    "cache-prior:0.3",
    "cache-prior:auto,J=1,first=2",
    "exact+drop-cold:0.75",
    "cache-prior:0.3+drop-cold:0.5",
)
TOKENS, PROMPT = 160, 60
PROFILE = {str(layer): [*range(31, 10, -1)] for layer in range(6)}


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    """The beginning of the held-out text."""
    return heldout_tokens()[:TOKENS]


@pytest.fixture(scope="module")
def trace(demo: Path, tokens: list[int]) -> Trace:
    """What the routers say of it: routed exactly."""
    return record_engine(LocalDevice(), demo, tokens, settings={"threads": 1})


@pytest.mark.parametrize("routing", METHODS)
@pytest.mark.parametrize(("cache", "capacity"), [("25%", 8), ("50%", 16)])
def test_the_lab_counts_what_the_engine_counts(
    demo: Path, trace: Trace, routing: str, cache: str, capacity: int
) -> None:
    ours = replayed(demo, trace, cache=cache, routing=routing)
    assert np.array_equal(ours, simulated(trace, capacity, routing=routing))
    assert (ours.sum(1) - ours[:, 3] == 6 * trace.top_k).all()
    assert ours[:, 3].any() == (not routing.startswith("exact"))


@pytest.mark.parametrize(
    "settings",
    [
        {"routing": "exact", "pool": "layer"},
        {"routing": "exact", "pool": "global"},
        {"routing": "cache-prior:0.3", "pool": "global"},
        {"routing": "cache-prior:0.3", "eviction": "lfu:0.9", "pool": "layer"},
        {"routing": "exact", "eviction": "lfu", "pool": "global"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_pools_and_evictions_are_the_labs(
    demo: Path, trace: Trace, settings: dict[str, Any]
) -> None:
    ours = replayed(demo, trace, cache="50%", **settings)
    assert np.array_equal(ours, simulated(trace, 16, **settings))


@pytest.mark.parametrize("initial_cache", ["cold", "prompt", "profile"])
def test_decoding_begins_with_the_labs_cache(demo: Path, trace: Trace, initial_cache: str) -> None:
    settings: dict[str, Any] = {"routing": "cache-prior:0.3+drop-cold:0.5"}
    profile = {"cache_profile": PROFILE} if initial_cache == "profile" else {}
    ours = replayed(demo, trace, PROMPT, initial_cache=initial_cache, **settings, **profile)
    lab = [*PROFILE.values()] if profile else initial_cache
    expected = simulated(trace, 16, PROMPT, initial_cache=lab, **settings)
    assert np.array_equal(ours, expected)


def test_an_initial_cache_comes_while_tokens_are_decoded(demo: Path, tokens: list[int]) -> None:
    """A short answer does not wait for it, and a later token finds all of it."""
    profile = {layer: range(32) for layer in range(6)}
    with Engine(demo, "100%", initial_cache="profile", cache_profile=profile, threads=1) as engine:
        next(iter(engine.generate(tokens[:PROMPT], 400, ignore_eos=True)))
        assert np.count_nonzero(engine.residency().ready) < 6 * 32
        for _ in engine.generate(tokens[:PROMPT], 400, ignore_eos=True):
            if engine.residency().ready.all():
                break
        assert engine.residency().ready.all()
        decoded = [token for token in engine.stats.tokens if token.phase == "decode"]
        assert sum(token.misses for token in decoded) == 0
        assert sum(token.hits for token in decoded) == len(decoded) * 6 * 4


def test_an_engine_opens_with_the_settings_of_another(demo: Path) -> None:
    profile = {0: (3, 1), 5: (2,)}
    settings = CacheSettings("50%", initial="profile", profile=profile)
    with Engine(demo, settings, "cache-prior:0.3", threads=1) as engine:
        resolved = engine.info.settings
    assert resolved.cache.profile == profile
    with Engine(demo, resolved.cache, resolved.routing, resolved.reading, threads=1) as again:
        assert again.info.settings == resolved


def test_without_replaying_the_counts_are_those_of_the_trace(
    demo: Path, trace: Trace, tokens: list[int]
) -> None:
    """The model's own routers, the exact ones: what they say does not depend on the cache."""
    with Engine(demo, "50%", pool="layer", initial_cache="cold", threads=1) as engine:
        engine.nll(tokens)
        assert np.array_equal(counted(engine.stats.tokens), simulated(trace, 16, routing="exact"))


def logits_of(demo: Path, tokens: list[int], **settings: Any) -> tuple[Logits, Logits, Counts]:
    with Engine(demo, "25%", threads=1, **settings) as engine:
        scored = engine.score(tokens[:24])
        return (
            scored,
            logits_after_prompt(engine, tokens[24:56], 6),
            counted(engine.stats.tokens),
        )


@pytest.mark.parametrize("routing", METHODS)
def test_lanes_and_residency_change_no_bit(demo: Path, tokens: list[int], routing: str) -> None:
    """Earlier work of the engine changes nothing either, unless the cache is warm."""
    reference = logits_of(demo, tokens, routing=routing)
    for residency, lanes in product(("slots", "programs"), (1, 4)):
        other = logits_of(demo, tokens, routing=routing, residency=residency, lanes=lanes)
        assert same_bits(other[:2], reference[:2]), (residency, lanes)
        assert np.array_equal(other[2][:, 2:], reference[2][:, 2:])
    with Engine(demo, "25%", threads=1, routing=routing) as engine:
        first, _, second = (
            engine.score(tokens[:24]),
            engine.nll(tokens[30:]),
            engine.score(tokens[:24]),
        )
    assert same_bits([first, second], [second, reference[0]])


@pytest.mark.parametrize(
    "routing", ["cache-prior:0", "cache-prior:0.5,J=4", "max-rank:4", "cache-prior:9,first=6"]
)
def test_routings_that_are_exact_by_definition_change_no_bit(
    demo: Path, tokens: list[int], routing: str
) -> None:
    assert same_bits(logits_of(demo, tokens, routing=routing)[:2], logits_of(demo, tokens)[:2])


def test_a_cache_of_all_experts_is_exact(demo: Path, tokens: list[int]) -> None:
    settings: dict[str, Any] = {
        "routing": "cache-prior:0.5+drop-cold:0.9", "residency": "resident",
    }  # fmt: skip
    with Engine(demo, threads=1, **settings) as engine:
        info, scored = engine.info, engine.score(tokens[:24])
    with Engine(demo, threads=1) as engine:
        assert same_bits(scored, engine.score(tokens[:24]))
    assert info.settings.cache.initial == "warm"


def test_info_has_the_resolved_routing(demo: Path) -> None:
    with Engine(demo, threads=1, routing="cache-prior:auto") as engine:
        info = engine.info
    assert info.routing == RoutingInfo("cache-prior:auto", "cache-prior:0.3,J=2", "", lossy=True)
    settings = info.settings
    assert (settings.cache.pool, settings.cache.initial) == ("layer", "prompt")
    assert info.plan.slots_per_layer == 16
    assert "16 per layer" in info.plan.text
    with Engine(demo, threads=1, routing="cache-prior:0.2,J=4") as engine:
        info = engine.info
    assert info.routing.resolved == "exact"
    settings = info.settings
    assert (settings.cache.pool, settings.cache.initial) == ("global", "warm")
    assert not info.routing.lossy
    assert info.routing.note


@pytest.mark.parametrize(
    "routing", [*METHODS, "exact", "exact,first=2", "cache-prior:0.2,J=4", "max-rank:8,first=6"]
)
def test_a_resolved_routing_shows_whether_it_is_lossy(demo: Path, routing: str) -> None:
    with Engine(demo, threads=1, routing=routing) as engine:
        found = engine.info.routing
    assert is_lossy(found.resolved) == found.lossy


def test_the_command_line_takes_a_profile_of_the_model_only(demo: Path, tmp_path: Path) -> None:
    file = tmp_path / "used.json"
    run = ("generate", demo, "--token-ids", "5,6", "-n", 2, "--ignore-eos", "-t", 1)
    write_profile(file, CacheProfile("demo", 32, {layer: [3, 1] for layer in range(6)}))
    answer = ok_json(*run, "--routing", "cache-prior:0.2", "--initial-cache", file)
    assert answer["settings"]["initial_cache"] == "profile"
    assert answer["settings"]["cache_profile"] == {str(layer): [3, 1] for layer in range(6)}
    told = ok("info", demo, "--initial-cache", file)
    assert "initial_cache profile" in told
    assert "cache_profile" not in told
    for profile in (
        CacheProfile("demo", 64, {layer: [3, 1] for layer in range(6)}),
        CacheProfile("demo", 32, {layer: [3, 1] for layer in range(5)}),
        CacheProfile("other", 32, {layer: [3, 1] for layer in range(6)}),
    ):
        write_profile(file, profile)
        error = failed(2, *run, "--initial-cache", file)
        assert error["file"] == str(file)
        assert f"the profile is of {profile.model}" in error["cause"]
        assert "Record one of this model" in error["remedy"]
    error = failed(2, *run, "--initial-cache", "warmer")
    assert error["setting"] == "--initial-cache"
    assert "auto, warm, cold, prompt" in error["remedy"]


@pytest.mark.parametrize("pool", ["global", "layer"])
def test_a_share_of_the_cache_is_the_lab_s(demo: Path, pool: str) -> None:
    """33 % of 32 experts are 10 in each of 6 layers, for the engine and the lab."""
    capacity = parse_capacity("33%").of(32)
    plan = Engine(demo, cache="33%", pool=pool, threads=1).info.plan
    assert plan.slots == 6 * capacity == 60
    assert plan.slots_per_layer == (capacity if pool == "layer" else 0)


def test_what_makes_no_sense_is_refused(demo: Path) -> None:
    def refused(kind: type[BudgetError | UsageError], cause: str, **settings: Any) -> None:
        with pytest.raises(kind, match=cause):
            Engine(demo, **{"threads": 1} | settings)

    refused(BudgetError, "each layer has room for 3", cache="700KiB", routing="cache-prior:0.2")
    # A divided cache has no lower limit of one token cycle.
    refused(BudgetError, "each layer has room", cache="10%", pool="layer", allow_below_cycle=True)
    refused(UsageError, "all experts are in memory", residency="resident", initial_cache="cold")
    refused(UsageError, "has no expert 32", initial_cache="profile", cache_profile={0: [32]})
    refused(UsageError, "expert 3 twice", initial_cache="profile", cache_profile={0: [3, 3]})
    refused(UsageError, "layer 6 of the model", initial_cache="profile", cache_profile={6: [0]})
    refused(UsageError, "would not be used", cache_profile={0: [1]})
    refused(UsageError, "belady", eviction="belady")
    refused(UsageError, "cache-prior", routing="cache-prior:x")
