# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The simulator decides as the oracles do, and as its documentation says."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import simulator_speed as speed
from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import BudgetError, MoeMobileError, UsageError
from moe_mobile.routing import Simulation, simulate
from tests.oracles.routing import RouterModel, Setup, replay

Floats = NDArray[np.float32]

TRACES = 10_000
CHUNKS = 20


def _random_logits(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    kind = rng.integers(5)
    if kind == 0:  # ties
        return rng.integers(-2, 3, shape).astype(np.float32)
    if kind == 1:  # the ends of float32, and what float32 softmax cannot tell apart
        ends = np.array([3e38, -3e38, 2.9e38, 1e-40, 0.0, -0.0, -500, -400], np.float32)
        return rng.choice(ends, shape)
    logits = rng.standard_normal(shape, dtype=np.float32)
    if kind == 2:  # a few experts go on being the best
        logits += 2 * rng.standard_normal(shape[1:], dtype=np.float32)
    return logits


def _random_router(rng: np.random.Generator, layers: int, experts: int) -> RouterModel:
    kind = rng.integers(6)
    sigmoid, relu = bool(kind == 0), bool(kind == 1)
    bias = None
    if sigmoid and rng.integers(2):
        bias = rng.standard_normal((layers, experts), dtype=np.float32)
    groups = int(rng.choice([g for g in range(1, experts + 1) if experts % g == 0]))
    if rng.integers(4):
        groups = 1
    return RouterModel(sigmoid, bias, groups, int(rng.integers(1, groups + 1)), relu)


def _spec(router: RouterModel) -> RouterSpec:
    return RouterSpec(
        "sigmoid" if router.sigmoid else "relu" if router.relu else "softmax",
        groups=router.groups,
        top_groups=router.top_groups,
        bias=() if router.bias is None else tuple(map(tuple, router.bias.tolist())),
    )


def _random_sequences(rng: np.random.Generator, tokens: int) -> tuple[int, ...]:
    cuts = rng.choice(np.arange(1, tokens), int(rng.integers(0, min(3, tokens))), replace=False)
    return tuple(np.diff([0, *sorted(cuts.tolist()), tokens]).tolist())


def _random_profile(
    rng: np.random.Generator, layers: int, experts: int
) -> tuple[tuple[int, ...], ...]:
    sizes = rng.integers(0, experts + 1, layers)
    return tuple(tuple(rng.permutation(experts)[:size].tolist()) for size in sizes)


def _random_setup(rng: np.random.Generator, tokens: int, layers: int, experts: int) -> Setup:
    router = _random_router(rng, layers, experts)
    eligible = experts // router.groups * router.top_groups
    top_k = eligible if rng.integers(8) == 0 else int(rng.integers(1, eligible + 1))
    method = str(rng.choice(["exact", "max-rank", "cumulative", "cache-prior"]))
    value = {
        "exact": 0.0,
        "max-rank": float(rng.integers(1, experts + 3)),
        "cumulative": float(rng.choice([0.1, 0.3, 0.5, 0.8, 0.95, 1.0])),
        "cache-prior": float(rng.choice([0.0, 0.1, 0.25, 0.5, 1.0, 2.0])),
    }[method]
    drop_cold = float(rng.choice([0.0, 0.0, 0.5, 1.0, 1.5]))
    evictions: list[Any] = ["lru", ("lfu", 0.99), ("lfu", float(rng.choice([0, 0.1, 0.5, 1])))]
    if method == "exact" and drop_cold == 0:
        evictions.append("belady")
    sequences = _random_sequences(rng, tokens)
    initials = ["cold", "prompt", _random_profile(rng, layers, experts)]
    return Setup(
        top_k=top_k,
        capacity=int(rng.integers(top_k, experts + 1)),
        router=router,
        method=method,
        value=value,
        guaranteed=int(rng.integers(0, top_k + 1)),
        first=int(rng.integers(0, 4)) if rng.integers(2) else 0,
        drop_cold=drop_cold,
        eviction=evictions[rng.integers(len(evictions))],
        one_pool=bool(rng.integers(2)),
        numbers=tuple(sorted(rng.permutation(layers + 2)[:layers].tolist())),
        sequences=sequences,
        prompt_tokens=int(rng.integers(0, max(sequences))) if rng.integers(2) else 0,
        initial=initials[rng.integers(3)],
    )


def _simulate(logits: Floats, setup: Setup) -> Simulation:
    routing = setup.method
    if setup.method != "exact":
        routing += f":{setup.value:g},J={setup.guaranteed}"
    routing += f",first={setup.first}" + (f"+drop-cold:{setup.drop_cold}" * (setup.drop_cold > 0))
    lfu = isinstance(setup.eviction, tuple)
    return simulate(
        logits,
        setup.top_k,
        setup.capacity,
        routing,
        f"lfu:{setup.eviction[1]}" if lfu else setup.eviction,
        pool="global" if setup.one_pool else "layer",
        sequences=setup.sequences or None,
        prompt_tokens=setup.prompt_tokens,
        initial_cache=setup.initial,
        layers=setup.numbers or None,
        router=_spec(setup.router),
    )


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_decides_as_the_oracles_do(chunk: int) -> None:
    rng = np.random.default_rng(chunk)
    for _ in range(TRACES // CHUNKS):
        tokens, layers, experts = (int(rng.integers(1, most + 1)) for most in (10, 3, 9))
        setup = _random_setup(rng, tokens, layers, experts)
        logits = _random_logits(rng, (tokens, layers, experts))
        expected, got = replay(logits, setup), _simulate(logits, setup)
        np.testing.assert_array_equal(got.selected, expected.selected, str(setup))
        np.testing.assert_array_equal(got.missed, expected.missed, str(setup))
        np.testing.assert_array_equal(got.dropped, expected.dropped, str(setup))
        decoded = sum(max(0, n - setup.prompt_tokens) for n in setup.sequences)
        assert got.decoded_tokens == decoded
        assert got.misses + got.hits == sum(
            int((expected.selected[end - n + min(n, setup.prompt_tokens) : end] >= 0).sum())
            for n, end in zip(setup.sequences, np.cumsum(setup.sequences), strict=True)
        )
        assert got.changed == expected.changed
        assert got.evictions == len(expected.lifetimes)
        if expected.lifetimes:
            assert got.lifetime_tokens == sum(expected.lifetimes)
            assert got.mean_lifetime == pytest.approx(np.mean(expected.lifetimes))
        else:
            assert got.mean_lifetime is None


# Sizes beyond the oracles' traces: other paths of the selection, more experts than lanes.
@pytest.mark.parametrize(("experts", "top_k"), [(64, 8), (60, 4), (128, 12), (40, 40), (257, 20)])
@pytest.mark.parametrize("value", [("cache-prior", 0.3), ("max-rank", 30), ("cumulative", 0.7)])
def test_decides_as_the_oracles_do_at_real_sizes(
    experts: int, top_k: int, value: tuple[str, float]
) -> None:
    rng = np.random.default_rng(experts)
    logits = rng.standard_normal((12, 2, experts), dtype=np.float32)
    logits[6:] = np.round(logits[6:])
    capacity = max(top_k, experts // 2)
    setup = Setup(top_k, capacity, RouterModel(), *value, guaranteed=min(2, top_k))
    expected, got = replay(logits, setup), _simulate(logits, setup)
    np.testing.assert_array_equal(got.selected, expected.selected)
    np.testing.assert_array_equal(got.missed, expected.missed)


def test_totals_follow_from_the_slots() -> None:
    logits = np.random.default_rng(1).standard_normal((50, 3, 16), dtype=np.float32)
    got = simulate(logits, 4, 8, "cache-prior:0.2+drop-cold:0.9")
    dtypes = [array.dtype.name for array in (got.selected, got.missed, got.dropped)]
    assert dtypes == ["int32", "bool", "bool"]
    assert got.selected.shape == got.missed.shape == got.dropped.shape == (50, 3, 4)
    assert got.misses == got.missed.sum()
    assert got.hits == (~got.missed).sum()
    assert got.hit_rate == pytest.approx((~got.missed).mean())
    assert 0 < got.dropped.sum() < got.misses
    assert not (got.dropped & ~got.missed).any()
    assert got.loads == got.misses - got.dropped.sum()
    assert got.loads_per_token_layer == got.loads / 150
    assert got.changed_share == got.changed / 600
    assert got.routing == "cache-prior:0.2,J=2+drop-cold:0.9"
    assert got.note == ""


def test_says_that_a_method_is_off() -> None:
    logits = np.zeros((1, 1, 4), np.float32)
    got = simulate(logits, 1, 2, "cache-prior:auto")
    assert got.routing == "exact"
    assert "off" in got.note


def test_settles_automatic_lambda() -> None:
    logits = np.zeros((1, 1, 64), np.float32)
    assert simulate(logits, routing="cache-prior:auto").routing == "cache-prior:0.3,J=2"


def test_takes_views_and_works_in_threads() -> None:
    logits = np.random.default_rng(2).standard_normal((64, 3, 400), dtype=np.float32)
    view = logits.transpose(2, 1, 0)
    expected = simulate(np.ascontiguousarray(view))
    results: list[Simulation] = []
    threads = [threading.Thread(target=lambda: results.append(simulate(view))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result.selected, expected.selected)
        np.testing.assert_array_equal(result.missed, expected.missed)


GOOD = np.zeros((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("setting", "arguments", "error"),
    [
        ("logits", {"logits": GOOD.tolist()}, UsageError),
        ("logits", {"logits": GOOD.astype(np.float64)}, UsageError),
        ("logits", {"logits": GOOD[0]}, UsageError),
        ("logits", {"logits": GOOD[:0]}, UsageError),
        ("logits", {"logits": GOOD + np.float32(math.nan)}, UsageError),
        ("logits", {"logits": GOOD - np.float32(math.inf), "eviction": "belady"}, UsageError),
        ("top_k", {"top_k": 5}, UsageError),
        ("top_k", {"top_k": 0}, UsageError),
        ("top_k", {"top_k": 1.5}, UsageError),
        ("capacity", {"capacity": 1}, BudgetError),
        ("capacity", {"capacity": 5}, UsageError),
        ("capacity", {"capacity": -1}, UsageError),
        ("capacity", {"capacity": 2**40}, UsageError),
        ("routing", {"routing": "fastest"}, UsageError),
        ("routing", {"routing": "cache-prior:0.2,J=3"}, UsageError),
        ("routing", {"routing": None}, UsageError),
        ("eviction", {"eviction": "fifo"}, UsageError),
        ("eviction", {"eviction": "belady", "routing": "max-rank:3,J=1"}, UsageError),
        ("pool", {"pool": "both"}, UsageError),
        ("score", {"router": RouterSpec("tanh")}, UsageError),
        ("score", {"router": RouterSpec(None)}, UsageError),  # type: ignore[arg-type]
        ("router", {"router": "softmax"}, UsageError),
        ("bias", {"router": RouterSpec(bias=((0.0,) * 4,))}, UsageError),
        ("bias", {"router": RouterSpec("relu", bias=((0.0,) * 4,))}, UsageError),
        ("bias", {"router": RouterSpec("sigmoid", bias=((0.0,) * 3,))}, UsageError),
        ("bias", {"router": RouterSpec("sigmoid", bias=((0.0,) * 4,) * 2)}, UsageError),
        ("bias", {"router": RouterSpec("sigmoid", bias=((math.nan,) * 4,))}, UsageError),
        ("scale", {"router": RouterSpec(scale=0)}, UsageError),
        ("epsilon", {"router": RouterSpec(epsilon=-1)}, UsageError),
        ("sequences", {"sequences": [1]}, UsageError),
        ("sequences", {"sequences": [0, 2]}, UsageError),
        ("prompt_tokens", {"prompt_tokens": 2}, UsageError),
        ("prompt_tokens", {"prompt_tokens": 1, "sequences": [1, 1]}, UsageError),
        ("prompt_tokens", {"prompt_tokens": -1}, UsageError),
        ("initial_cache", {"initial_cache": "hot"}, UsageError),
        ("initial_cache", {"initial_cache": [[0], [1]]}, UsageError),
        ("layers", {"layers": [0, 1]}, UsageError),
        ("layers", {"layers": [0, 2, 1]}, UsageError),
        ("layers", {"layers": 3}, UsageError),
        ("layers", {"layers": True}, UsageError),
        ("capacity", {"capacity": True}, UsageError),
        ("layers", {"layers": np.array(1)}, UsageError),
        ("layers", {"layers": "012"}, UsageError),
        ("layers", {"layers": (0.0,)}, UsageError),
        ("sequences", {"sequences": 2}, UsageError),
        ("sequences", {"sequences": (x for x in (1,))}, UsageError),
        ("groups", {"router": RouterSpec(groups=3)}, UsageError),
        ("groups", {"router": RouterSpec(groups=1.5)}, UsageError),  # type: ignore[arg-type]
        ("top_groups", {"router": RouterSpec(groups=4)}, UsageError),
    ],
)
def test_refuses_invalid_arguments(
    setting: str, arguments: dict[str, Any], error: type[MoeMobileError]
) -> None:
    valid = {"logits": GOOD, "top_k": 2, "capacity": 3, "routing": "exact"}
    with pytest.raises(error) as caught:
        simulate(**{**valid, **arguments})
    assert caught.value.setting == setting
    assert caught.value.remedy


def test_lists_of_numbers_may_be_any() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 3, 8), dtype=np.float32)
    settings: dict[str, Any] = {"top_k": 2, "capacity": 4, "routing": "cache-prior:1,first=2"}
    listed = simulate(logits, **settings, sequences=[4, 2], layers=[1, 2, 5])
    for kind in (tuple, np.array, iter, lambda numbers: (n for n in numbers)):
        again = simulate(logits, **settings, sequences=kind([4, 2]), layers=kind([1, 2, 5]))
        np.testing.assert_array_equal(again.selected, listed.selected)
        assert again.misses == listed.misses


def test_speed_is_printed_for_each_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["speed", "--tokens", "2"])
    assert speed.main() == 0
    printed = capsys.readouterr().out
    assert all(routing in printed for routing, _ in speed.CASES)
    monkeypatch.setattr("sys.argv", ["speed", "--tokens", "2", "--capacity", "4"])
    assert speed.main() == BudgetError.exit_code
    assert "capacity" in capsys.readouterr().err
