# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Routing and cache driven from outside decide as whole traces replayed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import BudgetError, MoeMobileError, UsageError
from moe_mobile.routing import RoutingRun, simulate

LAYERS, EXPERTS, TOP_K, CAPACITY = 3, 16, 4, 6
PROFILE = [[5, 1, 2], list(range(16)), [15, 14, 13, 12, 11, 10, 9]]
ROUTINGS = ["exact", "cache-prior:0.2", "max-rank:9,first=2+drop-cold:0.9", "cumulative:0.8,J=1"]


@pytest.fixture
def logits() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((60, LAYERS, EXPERTS), dtype=np.float32)


def made(**changes: Any) -> RoutingRun:
    usual = {"experts": EXPERTS, "layers": LAYERS, "top_k": TOP_K, "capacity": CAPACITY}
    return RoutingRun(**{**usual, **changes})


@pytest.mark.parametrize("initial", ["cold", "prompt", PROFILE], ids=["cold", "prompt", "profile"])
@pytest.mark.parametrize("prompt", [0, 20])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_layer_by_layer_is_token_by_token(
    logits: NDArray[np.float32], routing: str, prompt: int, initial: Any
) -> None:
    cache: dict[str, Any] = {"routing": routing, "eviction": "lfu:0.9", "initial_cache": initial}
    expected = simulate(logits, TOP_K, CAPACITY, prompt_tokens=prompt, **cache)
    run = made(**cache)
    for _ in range(2):
        for layer in range(LAYERS):
            parts = [
                run.route(layer, logits[part, layer], prompt=is_prompt)
                for part, is_prompt in (
                    (slice(0, prompt), True),
                    (slice(prompt, 50), False),
                    (slice(50, 60), False),
                )
                if part.stop > part.start
            ]
            for got, name in zip(zip(*parts, strict=True), parts[0]._fields, strict=True):
                whole = np.concatenate(got)
                assert whole.dtype == getattr(expected, name).dtype
                np.testing.assert_array_equal(whole, getattr(expected, name)[:, layer])
        run.reset()
    totals = run.totals()
    assert totals.slots == 2 * (60 - prompt) * LAYERS * TOP_K
    for name in ("misses", "loads", "changed", "evictions"):
        assert getattr(totals, name) == 2 * getattr(expected, name)
    assert totals.lifetime_tokens / totals.evictions == pytest.approx(expected.mean_lifetime)


@pytest.mark.parametrize("initial", ["cold", "prompt", PROFILE], ids=["cold", "prompt", "profile"])
def test_one_pool_goes_token_by_token(logits: NDArray[np.float32], initial: Any) -> None:
    cache: dict[str, Any] = {
        "routing": "cache-prior:0.3",
        "pool": "global",
        "initial_cache": initial,
    }
    expected = simulate(logits, TOP_K, CAPACITY, prompt_tokens=9, **cache)
    run = made(**cache)
    for token in range(60):
        for layer in range(LAYERS):
            row = logits[token, layer][np.newaxis]
            selected, missed, dropped = run.route(layer, row, prompt=token < 9)
            np.testing.assert_array_equal(selected[0], expected.selected[token, layer])
            np.testing.assert_array_equal(missed[0], expected.missed[token, layer])
            assert not dropped.any()
    with pytest.raises(UsageError, match="layer 1 is not the next one, which is 0") as caught:
        run.route(1, logits[0, :1])
    assert caught.value.setting == "layer"
    with pytest.raises(UsageError, match="3 tokens") as caught:
        run.route(0, logits[0])
    assert caught.value.setting == "logits"


def test_sigmoid_routers_and_numbers_of_layers(logits: NDArray[np.float32]) -> None:
    bias = np.random.default_rng(4).standard_normal((LAYERS, EXPERTS), dtype=np.float32)
    rows = tuple(tuple(row) for row in bias.tolist())
    router: dict[str, Any] = {"router": RouterSpec("sigmoid", groups=4, top_groups=2, bias=rows)}
    cache: dict[str, Any] = {"routing": "cache-prior:0.5,first=2", "layers": (1, 2, 7)}
    expected = simulate(logits, TOP_K, CAPACITY, **router, **cache)
    run = made(**router, **cache)
    assert (run.layers, run.routing, run.note) == (3, "cache-prior:0.5,J=2,first=2", "")
    for layer in range(LAYERS):
        got = run.route(layer, logits[:, layer])
        np.testing.assert_array_equal(got.selected, expected.selected[:, layer])
    exact = simulate(logits, TOP_K, CAPACITY, "exact", **router)
    same = (exact.selected == expected.selected).all(axis=(0, 2))
    assert same.tolist() == [True, False, False]


def test_a_method_that_begins_after_the_last_layer_is_exact(logits: NDArray[np.float32]) -> None:
    cache: dict[str, Any] = {"routing": "cache-prior:0.5,first=8+drop-cold:1", "layers": (1, 2, 7)}
    run, simulated = made(**cache), simulate(logits, TOP_K, CAPACITY, **cache)
    exact = simulate(logits, TOP_K, CAPACITY, "exact")
    for found in (run, simulated):
        assert found.routing == "exact"
        assert "first=8" in found.note
    np.testing.assert_array_equal(simulated.selected, exact.selected)
    cache["routing"] = "cache-prior:0.5,first=7"
    assert made(**cache).routing == "cache-prior:0.5,J=2,first=7"


def test_the_layers_may_be_any_list_or_their_number(logits: NDArray[np.float32]) -> None:
    cache: dict[str, Any] = {"routing": "cache-prior:0.5,first=2"}
    expected = made(**cache).route(2, logits[:, 2])
    for layers in (range(3), np.arange(3), iter([0, 1, 2]), np.int64(3), np.array(3)):
        run = made(**cache, layers=layers)
        assert run.layers == 3
        for got, wanted in zip(run.route(2, logits[:, 2]), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert made(layers=np.array([7])).layers == 1


@pytest.mark.parametrize("pool", ["layer", "global"])
def test_a_layer_that_is_not_there(pool: str, logits: NDArray[np.float32]) -> None:
    run = made(pool=pool)
    with pytest.raises(UsageError, match="there is no layer 3 among 3") as caught:
        run.route(3, logits[:1, 0])
    assert caught.value.setting == "layer"
    assert "pool" not in str(caught.value.remedy)


def test_refused_arguments_change_nothing(logits: NDArray[np.float32]) -> None:
    run, other = made(routing="cache-prior:0.3"), made(routing="cache-prior:0.3")
    for part in (logits[:30, 0], logits[30:, 0]):
        broken = part.copy()
        broken[-1, 3] = math.nan
        wrongs: tuple[Any, ...] = (broken, part[:, :5], part[0], part.astype(np.float64), part[:0])
        for wrong in wrongs:
            with pytest.raises(UsageError) as caught:
                run.route(0, wrong)
            assert caught.value.setting == "logits"
        for layer in (3, -1, 0.5):
            with pytest.raises(UsageError):
                run.route(layer, part)  # type: ignore[arg-type]
        for got, expected in zip(run.route(0, part), other.route(0, part), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert run.totals() == other.totals()


@pytest.mark.parametrize(
    ("setting", "changes", "error"),
    [
        ("experts", {"experts": 0}, UsageError),
        ("layers", {"layers": 0}, UsageError),
        ("layers", {"layers": ()}, UsageError),
        ("layers", {"layers": (1, 1)}, UsageError),
        ("layers", {"layers": (-1, 1)}, UsageError),
        ("layers", {"layers": 2.0}, UsageError),
        ("layers", {"layers": "012"}, UsageError),
        ("layers", {"layers": 4097}, UsageError),
        ("layers", {"layers": range(4097)}, UsageError),
        ("layers", {"layers": 2**31 - 1}, UsageError),
        ("experts", {"experts": 65537}, UsageError),
        ("experts", {"experts": 2**31 - 1}, UsageError),  # would take all memory
        ("experts", {"experts": 65536, "layers": 4096}, UsageError),
        ("experts", {"experts": 16.0}, UsageError),
        ("top_k", {"top_k": 17}, UsageError),
        ("capacity", {"capacity": 3}, BudgetError),
        ("capacity", {"capacity": 17}, UsageError),
        ("routing", {"routing": "max-rank"}, UsageError),
        ("eviction", {"eviction": "belady"}, UsageError),
        ("pool", {"pool": "all"}, UsageError),
        ("initial_cache", {"initial_cache": "warm"}, UsageError),
        ("initial_cache", {"initial_cache": []}, UsageError),
        ("initial_cache", {"initial_cache": 3}, UsageError),
        ("initial_cache", {"initial_cache": [1, 2, 3]}, UsageError),
        ("initial_cache", {"initial_cache": [[1], [2], [16]]}, UsageError),
        ("initial_cache", {"initial_cache": [[1], [2], [3, 3]]}, UsageError),
        ("initial_cache", {"initial_cache": [[1], [2], [-1]]}, UsageError),
        ("initial_cache", {"initial_cache": [[1], [2]]}, UsageError),
    ],
)
def test_refuses_invalid_arguments(
    setting: str, changes: dict[str, Any], error: type[MoeMobileError]
) -> None:
    with pytest.raises(error) as caught:
        made(**changes)
    assert caught.value.setting == setting
    assert caught.value.remedy
