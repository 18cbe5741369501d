# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Cancel, resize and residency, from other threads and while the engine works."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_mobile import Engine
from moe_mobile.errors import BudgetError, CancelledError, IoError, UsageError
from moe_mobile.runner import Runner
from tests.engine.native import rss_anon, same_bits

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12]
MIB = 2**20


@pytest.fixture(scope="module")
def expected(demo: Path) -> list[int]:
    with Engine(demo, residency="resident", threads=1) as engine:
        return list(engine.generate(PROMPT, 400, ignore_eos=True))


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_cancel_stops_within_one_token_and_the_engine_goes_on(
    demo: Path, expected: list[int]
) -> None:
    with Engine(demo, threads=1) as engine:
        engine.cancel()  # nothing runs: nothing happens
        generation = engine.generate(PROMPT, 400, ignore_eos=True)
        tokens = [next(generation) for _ in range(3)]
        in_thread(engine.cancel).join()
        with pytest.raises(CancelledError) as stopped:
            next(generation)
        assert stopped.value.exit_code == 130
        assert tokens == expected[:3]
        assert list(engine.generate(PROMPT, 400, ignore_eos=True)) == expected
        engine.cancel()
        engine.score(PROMPT)


@pytest.mark.parametrize("work", ["generate", "score", "nll"])
def test_cancel_stops_the_work_of_another_thread(demo: Path, work: str) -> None:
    with Engine(demo, threads=1, context=1024) as engine:
        begun = threading.Event()
        stopped: list[BaseException] = []

        def run() -> None:
            try:
                if work == "generate":
                    for _ in engine.generate(PROMPT, 1000, ignore_eos=True):
                        begun.set()
                else:
                    begun.set()
                    getattr(engine, work)(PROMPT * 120)
            except CancelledError as error:
                stopped.append(error)

        thread = in_thread(run)
        assert begun.wait(1200)
        while thread.is_alive():  # it may not have reached the engine yet
            engine.cancel()
            thread.join(0.01)
        assert len(stopped) == 1
        assert engine.stats.totals.tokens < 960
        engine.score(PROMPT)


def test_one_cancel_stops_a_measurement_at_any_moment(demo: Path) -> None:
    works: dict[str, dict[str, Any]] = {
        "measure_misses": {"count": 1_000_000},
        "time_program": {"path": str(demo / "dense/head.pte"), "iterations": 1_000_000},
    }
    with Runner() as runner, ThreadPoolExecutor(1) as asking:
        runner.request("open", bundle=str(demo), settings={"cache": "50%", "threads": 1})
        for (command, members), delay in product(works.items(), (0, 0.0003, 0.001, 0.01, 0.1)):
            answer = asking.submit(runner.request, command, **members)
            time.sleep(delay)
            while runner.cancel() == 0:
                pass  # it has not been received yet
            with pytest.raises(CancelledError):
                answer.result(timeout=1200)


@pytest.mark.parametrize("settings", [{"cache": "50%"}, {"residency": "resident"}])
def test_measuring_misses_leaves_the_cache_as_it_is(
    demo: Path, expected: list[int], settings: dict[str, Any]
) -> None:
    generation: dict[str, Any] = {"token_ids": PROMPT, "max_new_tokens": 40, "ignore_eos": True}
    with Runner() as runner:
        runner.request("open", bundle=str(demo), settings={"threads": 1} | settings)
        runner.request("generate", **generation)
        before = runner.residency().states
        shown = []
        for _ in range(2):
            runner.request("measure_misses", count=3)
            shown.append(runner.residency().states)
        assert np.array_equal(shown[0], shown[1])
        assert (shown[0] >= before).all()
        result = runner.request("generate", **generation)
        assert result["token_ids"] == expected[:40]
        if "residency" in settings:
            assert result["stats"]["totals"]["misses"] == 0


def test_misses_of_a_bundle_without_programs_are_not_measured(demo: Path, tmp_path: Path) -> None:
    bundle = str(shutil.copytree(demo, tmp_path / "bundle"))
    with Runner() as runner:
        runner.request("prepare", bundle=bundle, consume=True)
        runner.request("open", bundle=bundle, settings={"residency": "resident", "threads": 1})
        with pytest.raises(IoError, match="programs are missing") as refused:
            runner.request("measure_misses", count=3)
        assert refused.value.file == bundle
        assert runner.residency().ready.all()


def test_a_prompt_is_cancelled_from_its_progress(demo: Path) -> None:
    engine: Engine

    def cancel(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "prefill" and done > 0:
            engine.cancel()

    with Engine(demo, threads=1, progress=cancel) as engine:
        with pytest.raises(CancelledError):
            engine.generate(PROMPT, 4)
        assert engine.stats.tokens == ()


@pytest.mark.parametrize(
    ("residency", "pool"), [("slots", "global"), ("slots", "layer"), ("programs", "global")]
)
def test_the_output_is_the_same_at_any_resizes(
    demo: Path, expected: list[int], residency: str, pool: str
) -> None:
    drawn = random.Random(7)
    with Engine(demo, "50%", residency=residency, pool=pool, threads=1) as engine:
        cycle = engine.info.plan.token_cycle_slots * 100 // engine.info.plan.num_experts + 2
        for _ in range(2):
            tokens = []
            for token in engine.generate(PROMPT, 200, ignore_eos=True):
                tokens.append(token)
                if len(tokens) % 2 == 0:
                    share = drawn.randint(cycle, 100)
                    engine.resize(f"{share}%")
                    plan = engine.info.plan
                    ready = int(np.count_nonzero(engine.residency().states))
                    assert ready <= plan.slots <= plan.num_experts * (share + 1) / 100
            assert tokens == expected[:200]


def test_resizing_while_another_thread_decodes(demo: Path, expected: list[int]) -> None:
    with Engine(demo, "50%", threads=1) as engine:
        ended = threading.Event()
        resizes = 0

        def resize() -> None:
            nonlocal resizes
            drawn = random.Random(9)
            while not ended.is_set():
                engine.resize(f"{drawn.randint(20, 100)}%")
                engine.residency()
                engine.info  # noqa: B018
                resizes += 1
                time.sleep(0.001)

        thread = in_thread(resize)
        try:
            assert list(engine.generate(PROMPT, 400, ignore_eos=True)) == expected
            with Engine(demo, "50%", threads=1) as other:
                logits = other.score(PROMPT * 4)
            assert same_bits(engine.score(PROMPT * 4), logits)
        finally:
            ended.set()
            thread.join()
        assert resizes > 0


def test_routing_by_the_cache_depends_on_when_it_was_resized_and_on_nothing_else(
    demo: Path,
) -> None:
    def run(lanes: int) -> list[int]:
        with Engine(demo, "60%", routing="cache-prior:0.9", lanes=lanes, threads=1) as engine:
            tokens = []
            for token in engine.generate(PROMPT, 60, ignore_eos=True):
                tokens.append(token)
                if len(tokens) == 10:
                    engine.resize("25%")
                if len(tokens) == 40:
                    engine.resize("80%")
            return tokens

    assert run(lanes=1) == run(lanes=4)


def test_an_automatic_value_of_the_routing_stays_as_resolved_at_opening(demo: Path) -> None:
    def after_growth(routing: str) -> tuple[str, list[int]]:
        with Engine(demo, "25%", routing=routing, threads=1) as engine:
            opened = engine.info.routing
            engine.resize("60%")
            assert engine.info.routing == opened
            assert engine.info.settings.routing.method == opened.resolved
            return opened.resolved, list(engine.generate(PROMPT, 60, ignore_eos=True))

    with Engine(demo, "60%", routing="cache-prior:auto", threads=1) as engine:
        other = engine.info.routing.resolved
    resolved, tokens = after_growth("cache-prior:auto")
    assert resolved != other
    assert after_growth(resolved) == (resolved, tokens)


def test_a_refused_budget_changes_nothing(demo: Path, expected: list[int]) -> None:
    with Engine(demo, "50%", threads=1) as engine:
        before = engine.info
        for budget, kind in [("1KiB", BudgetError), ("-3", UsageError), ("", UsageError)]:
            with pytest.raises(kind) as refused:
                engine.resize(budget)
            assert refused.value.setting == "cache"
        assert engine.info == before
        assert list(engine.generate(PROMPT, 400, ignore_eos=True)) == expected
    with (
        Engine(demo, residency="resident", threads=1) as engine,
        pytest.raises(UsageError, match="all experts stay in memory"),
    ):
        engine.resize("50%")
    with pytest.raises(UsageError, match="closed"):
        engine.resize("50%")
    engine.cancel()


def test_info_shows_the_new_plan_and_growth_reaches_everything(
    demo: Path, expected: list[int]
) -> None:
    with Engine(demo, "20%", threads=1) as engine:
        engine.resize("100%")
        plan = engine.info.plan
        assert plan.slots == plan.num_experts
        assert engine.info.settings.cache.size == "100%"
        assert list(engine.generate(PROMPT, 400, ignore_eos=True)) == expected
        assert list(engine.generate(PROMPT, 400, ignore_eos=True)) == expected
        # All that these tokens use is in memory now.
        assert engine.stats.totals.misses == 0


def test_residency_shows_cached_experts_and_hits(demo: Path) -> None:
    with Engine(demo, "50%", threads=1) as engine:
        first = engine.residency()
        layers, experts = first.states.shape
        assert layers * experts == engine.info.plan.num_experts
        assert list(first.layers) == list(range(layers))
        assert not np.any(first.states)
        assert (int(first.hits.sum()), int(first.misses.sum())) == (0, 0)
        list(engine.generate(PROMPT, 20, ignore_eos=True))
        shown = engine.residency()
        assert [str(array.dtype) for array in (first.states, first.hits)] == ["uint8", "uint64"]
        assert set(np.unique(shown.states)) <= {0, 2}
        assert 0 < np.count_nonzero(shown.states) <= engine.info.plan.slots
        totals = engine.stats.totals
        assert (int(shown.hits.sum()), int(shown.misses.sum())) == (totals.hits, totals.misses)


@pytest.mark.parametrize("residency", ["slots", "programs"])
def test_shrinking_gives_memory_back_to_the_system(demo: Path, residency: str) -> None:
    with Runner() as runner:
        settings = {"cache": "100%", "residency": residency, "threads": 1, "context": 512}
        plan = runner.request("open", bundle=str(demo), settings=settings)["plan"]
        tokens = [(37 * i) % 400 for i in range(300)]
        runner.request("generate", token_ids=tokens, max_new_tokens=100, ignore_eos=True)
        used = int(np.count_nonzero(runner.residency().states))
        before = rss_anon(runner.pid)
        small = runner.resize("20%")
        after = rss_anon(runner.pid)
        given_back = (used - small["slots"]) * plan["slot_bytes"]
        assert given_back > MIB
        assert before - after >= 0.8 * given_back
        grown = runner.resize("100%")
        assert grown["slots"] == plan["slots"]
        assert rss_anon(runner.pid) <= after + 0.1 * given_back  # lazily
        runner.request("generate", token_ids=tokens, max_new_tokens=100, ignore_eos=True)
        assert rss_anon(runner.pid) > after
