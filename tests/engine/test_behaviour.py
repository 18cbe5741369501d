# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Budgets, sampling, limits and errors of the engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe_mobile import Engine, RoutingSettings
from moe_mobile.bundle import inspect_bundle
from moe_mobile.errors import BudgetError, BundleInvalidError, UnsupportedError, UsageError
from moe_mobile.export import export_bundle
from moe_mobile.results import MemoryPlan
from tests.bundles import FEW_ROWS, BundleMaker
from tests.engine.native import same_bits
from tests.oracles.logits import logits_of
from tests.tiny import VOCAB, load_checkpoint, tiny_model, tiny_prompt


@pytest.fixture(scope="module")
def tiny(bundle: BundleMaker) -> Path:
    return bundle("qwen2_moe", "fp32")


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[Engine]:
    with Engine(tiny, threads=1) as opened:
        yield opened


def test_a_budget_below_one_token_cycle_is_refused(tiny: Path) -> None:
    with Engine(tiny, threads=1) as engine:
        plan = engine.info.plan
    assert plan.token_cycle_slots == 2 * 2
    short = f"{plan.token_cycle_slots * plan.slot_bytes - 1}B"
    with pytest.raises(BudgetError) as refusal:
        Engine(tiny, short, threads=1)
    assert refusal.value.code == "budget"
    assert "one token uses 4" in refusal.value.cause
    assert refusal.value.remedy
    assert (refusal.value.file, refusal.value.setting) == (None, "cache")
    # Fewer than one layer needs at once cannot work at all.
    with pytest.raises(BudgetError):
        Engine(tiny, f"{plan.slot_bytes}B", threads=1, allow_below_cycle=True)


@pytest.mark.parametrize("lanes", [1, 4])
def test_below_one_cycle_all_misses_and_the_output_stays(tiny: Path, lanes: int) -> None:
    ids = tiny_prompt(16)
    with Engine(tiny, residency="resident", threads=1) as engine:
        expected = engine.score(ids)
        continuation = list(engine.generate(ids, 8, ignore_eos=True))
        slot_bytes = engine.info.plan.slot_bytes
    cache = f"{2 * slot_bytes}B"
    with Engine(tiny, cache, lanes=lanes, threads=1, allow_below_cycle=True) as engine:
        assert same_bits(engine.score(ids), expected)
        assert engine.stats.totals.hits == 0
        assert list(engine.generate(ids, 8, ignore_eos=True)) == continuation


def test_a_prompt_can_be_stopped_between_batches(large_bundle: Path) -> None:
    """The engine then goes on as if there had been no prompt."""
    ids = tiny_prompt(300)
    seen: list[tuple[str, int, int]] = []

    def stop_after_one(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "prefill":
            seen.append((stage, done, total))
            raise KeyboardInterrupt

    with Engine(large_bundle, threads=1) as engine:
        expected = list(engine.generate(ids, 4, ignore_eos=True))
    with Engine(large_bundle, threads=1, progress=stop_after_one) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.generate(ids, 4)
        # One layer, and two batches of at most 256 tokens.
        assert seen == [("prefill", 256, 300)]
        assert engine.stats.tokens == ()
        engine._progress = None
        assert list(engine.generate(ids, 4, ignore_eos=True)) == expected


def test_the_plan_is_reported_before_anything_is_loaded(tiny: Path) -> None:
    events: list[Any] = []
    with Engine(
        tiny,
        threads=1,
        progress=lambda stage, *_: events.append(stage),
        planned=events.append,
    ) as engine:
        (at,) = [i for i, event in enumerate(events) if isinstance(event, MemoryPlan)]
        assert events[at] == engine.info.plan
        assert "load dense" not in map(str, events[:at])
        assert "load dense" in map(str, events[at:])


def test_plans_of_programs_include_their_read_buffers(tiny: Path) -> None:
    with Engine(tiny, threads=1, lanes=1) as engine:
        slots = engine.info.plan
    with Engine(tiny, threads=1, lanes=1, residency="programs") as engine:
        programs = engine.info.plan
    expert = inspect_bundle(tiny)["memory"]["expert_bytes"]
    # Two reads at once: of a token's top two, and of one lane's queue.
    assert programs.arena_bytes == slots.arena_bytes + 2 * expert


def test_a_long_prompt_reads_each_expert_once(demo: Path) -> None:
    """Four batches, and a cache of a quarter of the experts: more than one layer has."""
    ids = [7 + 31 * i % 4000 for i in range(1000)]
    with Engine(demo, "25%", threads=1) as engine:
        engine.generate(ids, 1)
        info, totals = engine.info, engine.stats.totals
    experts = info.plan.num_experts
    assert 0.9 * experts < totals.misses <= experts


def test_a_closed_engine_gives_no_more_tokens(tiny: Path) -> None:
    with Engine(tiny, threads=1) as engine:
        tokens = engine.generate(tiny_prompt(4), 8, ignore_eos=True)
        next(tokens)
    with pytest.raises(UsageError, match="closed"):
        next(tokens)


def test_callbacks_cannot_use_their_engine(tiny: Path) -> None:
    """They would wait for their own call."""
    seen: list[str] = []

    def look(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "prefill":
            with pytest.raises(UsageError, match="its own callback"):
                opened.stats  # noqa: B018
            assert opened.info.plan.slots > 0  # waits for no call
            seen.append(stage)

    with Engine(tiny, threads=1, progress=look) as opened:
        opened.generate(tiny_prompt(4), 1)
        assert seen
        assert opened.stats.tokens


def test_numbers_of_numpy_will_do(tiny: Path) -> None:
    with Engine(tiny, threads=1) as engine:
        plain = list(engine.generate(tiny_prompt(4), 8, temperature=0.5, top_k=9, seed=3))
        same: dict[str, Any] = {
            "temperature": np.float32(0.5),
            "top_k": np.int64(9),
            "seed": np.uint8(3),
        }
    lanes: Any = np.int64(2)
    with Engine(tiny, threads=1, lanes=lanes) as engine:
        ids: Any = np.array(tiny_prompt(4))
        count: Any = np.int32(8)
        assert list(engine.generate(ids, count, **same)) == plain
        assert np.array_equal(engine.score(ids), engine.score(tiny_prompt(4)))


def test_each_engine_chooses_its_threads(tiny: Path) -> None:
    """In a process of its own: the pool belongs to the process."""
    code = (
        "import os, sys; from moe_mobile import Engine\n"
        "for threads in (None, 1, None):\n"
        "    with Engine(sys.argv[1], threads=threads) as engine:\n"
        "        print(engine.info.settings.threads)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=True
    )
    first, one, again = map(int, done.stdout.split())
    assert (one, again) == (1, first)


def test_a_nonsensical_budget_is_refused_before_weights_are_packed(
    bundle: BundleMaker, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with pytest.raises(UsageError, match="50 parts"):
        Engine(bundle("mixtral", "fp32"), "50 parts", packed_dir=store)
    assert not store.exists()


@pytest.mark.parametrize("odd", [0, 1], ids=["the template", "another"])
def test_an_expert_that_fits_no_slot_leaves_residency_programs(odd: int, tmp_path: Path) -> None:
    """XNNPACK packs two equal matrices once, so that such an expert is laid out unlike others."""
    model = tiny_model("mixtral")
    with torch.no_grad():
        gate, up = model.model.layers[0].mlp.experts.gate_up_proj[odd].chunk(2)
        gate.copy_(up)
    model.save_pretrained(tmp_path / "model", save_original_format=True)
    made = export_bundle(tmp_path / "model", tmp_path / "bundle", "fp32", max_batch=FEW_ROWS)
    expected = logits_of(load_checkpoint(tmp_path / "model"), tiny_prompt(8))
    with pytest.raises(UnsupportedError, match="laid out unlike"):
        Engine(made, residency="resident", threads=1)
    for residency in ("slots", "programs"):
        with Engine(made, residency=residency, threads=1) as engine:
            assert engine.info.settings.reading.residency == "programs"
            assert len(engine.info.fallbacks) == (residency == "slots")
            largest = inspect_bundle(made)["memory"]["expert_bytes"]
            assert engine.info.plan.slot_bytes >= largest
            assert np.abs(engine.score(tiny_prompt(8)) - expected).max() < 1e-3


def test_a_slot_file_left_by_a_killed_process_does_no_harm(tiny: Path) -> None:
    """Its process may have had this one's number, as in a container."""
    with Engine(tiny, threads=1) as engine:
        store = Path(str(engine.info.settings.reading.packed_dir))
    left = [store / f"moe-slot-{os.getpid()}-{number}.bin" for number in range(10_000)]
    try:
        for path in left:
            path.touch()
        with Engine(tiny, threads=1) as engine:
            assert engine.info.fallbacks == ()
    finally:
        for path in left:
            path.unlink(missing_ok=True)


def test_sampling_repeats_with_its_seed(tiny: Path) -> None:
    def sample(engine: Engine, seed: int) -> list[int]:
        return list(
            engine.generate(
                tiny_prompt(8),
                40,
                temperature=1.3,
                top_k=40,
                top_p=0.95,
                seed=seed,
                ignore_eos=True,
            )
        )

    with Engine(tiny, threads=1) as engine:
        first, other = sample(engine, 1), sample(engine, 2)
        assert sample(engine, 1) == first
        assert first != other
    with Engine(tiny, "100%", threads=1) as engine:
        assert sample(engine, 1) == first


def test_nll_agrees_with_logits(engine: Engine) -> None:
    ids = tiny_prompt(24)
    logits, nll = engine.score(ids).astype(np.float64), engine.nll(ids)
    expected = np.log(np.exp(logits).sum(1))[:-1] - logits[np.arange(23), ids[1:]]
    assert nll.dtype == np.float32
    np.testing.assert_allclose(nll, expected, atol=1e-5)


def test_context_is_a_limit_and_the_engine_survives(tiny: Path) -> None:
    with Engine(tiny, context=16, threads=1) as engine:
        expected = engine.score(tiny_prompt(16))
        for ids in (tiny_prompt(17), tiny_prompt(100)):
            with pytest.raises(UsageError, match="context of 16"):
                engine.score(ids)
            with pytest.raises(UsageError, match="context of 16"):
                list(engine.generate(ids, 1))
        # A generation ends with the context: 12 + 4 positions, and one token more.
        assert len(list(engine.generate(tiny_prompt(12), 40, ignore_eos=True))) == 5
        assert np.array_equal(engine.score(tiny_prompt(16)), expected)
    with pytest.raises(UsageError, match="more than the model's 256"):
        Engine(tiny, context=257, threads=1)


@pytest.mark.parametrize("bad", [[VOCAB], [5, VOCAB + 1, 6], [2**31]], ids=str)
def test_unknown_tokens_are_refused_and_the_engine_survives(engine: Engine, bad: list[int]) -> None:
    ids = tiny_prompt(8)
    expected = engine.score(ids)
    for call in (engine.score, engine.nll):
        with pytest.raises(UsageError):
            call(bad)
        with pytest.raises(UsageError) as caught:
            call([1, *bad])
        assert caught.value.setting == "token_ids"
        assert caught.value.remedy
    with pytest.raises(UsageError):
        list(engine.generate(bad, 2))
    with pytest.raises(UsageError):
        engine.score([])
    assert np.array_equal(engine.score(ids), expected)


def test_a_new_conversation_forgets_the_old_one(tiny: Path) -> None:
    ids = tiny_prompt(12)
    with Engine(tiny, threads=1) as engine:
        expected = list(engine.generate(ids, 12, ignore_eos=True))
        abandoned = engine.generate(tiny_prompt(30)[::-1], 12)
        next(abandoned)
        assert list(engine.generate(ids, 12, ignore_eos=True)) == expected
        engine.reset()
        assert engine.stats.tokens == ()
        assert list(engine.generate(ids, 12, ignore_eos=True)) == expected
    with pytest.raises(UsageError, match="closed"):
        engine.score(ids)


def test_a_short_generation_is_the_beginning_of_a_long_one(engine: Engine) -> None:
    ids = tiny_prompt(12)
    long = list(engine.generate(ids, 12, ignore_eos=True))
    assert list(engine.generate(ids, 5, ignore_eos=True)) == long[:5]
    assert list(engine.generate(ids, 0)) == []


def test_an_abandoned_generation_cannot_go_on(engine: Engine) -> None:
    abandoned = engine.generate(tiny_prompt(8), 8, ignore_eos=True)
    next(abandoned)
    engine.nll(tiny_prompt(6))
    with pytest.raises(UsageError, match="another conversation"):
        next(abandoned)


def test_threads_take_turns(engine: Engine) -> None:
    with ThreadPoolExecutor(3) as threads:
        expected = engine.score(tiny_prompt(12))
        scores = list(threads.map(engine.score, [tiny_prompt(12)] * 9))
        assert all(np.array_equal(score, expected) for score in scores)


def test_a_missing_folder_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalidError, match=r"no such folder.*moe-mobile export") as caught:
        Engine(tmp_path / "nope")
    assert caught.value.file == str(tmp_path / "nope")


@pytest.mark.parametrize("name", ["threads", "context"])
def test_zero_does_not_mean_the_default(tiny: Path, name: str) -> None:
    settings: dict[str, int] = {name: 0}
    with pytest.raises(UsageError, match="from 1 to 4294967295") as caught:
        Engine(tiny, **settings)  # type: ignore[arg-type]
    assert caught.value.setting == name
    with pytest.raises(UsageError, match="from 1 to 4294967295"):
        Engine(tiny, **{name: 2**32})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("cache", 50), ("cache", RoutingSettings()), ("routing", 1), ("routing", 0), ("reading", {})],
)
def test_a_setting_of_another_type_is_refused(tiny: Path, name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"invalid {name} ") as caught:
        Engine(tiny, **{name: value})
    assert caught.value.setting == name
    assert f"{name.capitalize()}Settings" in str(caught.value.remedy)


@pytest.mark.parametrize("name", ["bundle", "packed_dir", "scratch_dir"])
def test_a_path_of_another_type_is_refused(tiny: Path, name: str) -> None:
    for value in (5, b"x"):
        with pytest.raises(UsageError, match="is not a path") as caught:
            Engine(**({"bundle": tiny} | {name: value}))  # type: ignore[arg-type]
        assert caught.value.setting == name


@pytest.mark.parametrize(
    ("call", "arguments", "options", "cause"),
    [
        ("generate", [[1, 2], 4], {"temperature": -1.0}, "temperature"),
        ("generate", [[1, 2], 4], {"temperature": float("nan")}, "finite"),
        ("generate", [[1, 2], 4], {"top_p": 0.0}, "top_p"),
        ("generate", [[1, 2], 4], {"top_p": float("inf")}, "finite"),
        ("generate", [[VOCAB], 4], {}, "outside the vocabulary"),
        ("generate", [[], 4], {}, "no tokens"),
        ("generate", [[1], 1.5], {}, "not a whole number"),
        ("generate", [[1], 4], {"ignore_eos": "no"}, "neither True nor False"),
        ("generate", [[1], 4], {"ignore_eos": None}, "neither True nor False"),
        ("generate", [[1], 4], {"ignore_eos": 1}, "neither True nor False"),
        ("generate", [{"role": "user", "content": "Hello"}], {}, "of type dict"),
        ("generate", [5], {}, "of type int"),
        ("generate", [None], {}, "of type NoneType"),
        ("generate", [iter([1, 2])], {}, "iterator"),
        ("generate", [np.array(5)], {}, "of type ndarray"),
        ("generate", [b"abc"], {}, "bytes are not token ids"),
        ("generate", [bytearray(b"abc")], {}, "bytearray are not token ids"),
        ("score", [b"abc"], {}, "bytes are not token ids"),
        ("nll", [b"abc"], {}, "bytes are not token ids"),
        ("score", [[1.5]], {}, "not an integer"),
        ("score", [["1"]], {}, "not an integer"),
        ("score", [[None]], {}, "not an integer"),
        ("score", [[True]], {}, "not an integer"),
        ("generate", [[1], True], {}, "not a whole number"),
        ("resize", [5], {}, "invalid cache"),
        ("resize", [None], {}, "invalid cache"),
        ("resize", [Path("50%")], {}, "invalid cache"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_token_is_taken(
    engine: Engine, call: str, arguments: list[Any], options: dict[str, Any], cause: str
) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        getattr(engine, call)(*arguments, **options)
    assert caught.value.setting
    assert caught.value.remedy or cause == "finite"


@pytest.fixture
def unprepared(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle."""
    ignore = shutil.ignore_patterns(".packed")
    return shutil.copytree(tiny, tmp_path / "unprepared", ignore=ignore)


@pytest.mark.parametrize("named", ["{}", "{}/", "{}/.", "{}/../KEY", "{}/sub"])
@pytest.mark.parametrize("place", [".packed", ".packed/KEY"])
def test_packed_dir_does_not_lead_through_links_of_the_bundle(
    place: str, named: str, tiny: Path, unprepared: Path, tmp_path: Path
) -> None:
    with Engine(tiny, threads=1) as engine:
        key = engine.info.store_key
    victim = tmp_path / "victim"
    (victim / key / "sub").mkdir(parents=True)
    link = unprepared / place.replace("KEY", key)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim if place == ".packed" else victim / key)
    before = sorted(victim.rglob("*"))
    for bundle in (unprepared, tmp_path / "alias"):  # links on the way to the bundle are allowed
        if not bundle.exists():
            bundle.symlink_to(unprepared)
        packed_dir = named.format(bundle / ".packed" / key).replace("KEY", key)
        with pytest.raises(UsageError, match="through a link") as caught:
            Engine(unprepared, threads=1, packed_dir=packed_dir)
        assert str(caught.value.file) == str(bundle / place.replace("KEY", key))
    assert sorted(victim.rglob("*")) == before
    link.unlink()
    with Engine(unprepared, threads=1, packed_dir=packed_dir.replace("/../" + key, "")) as engine:
        assert len(engine.score([5, 6, 7])) == 3


@pytest.mark.parametrize("name", ["lock", "layer-00.packed.partial"])
def test_links_to_files_are_not_written_through(
    name: str, tiny: Path, unprepared: Path, tmp_path: Path
) -> None:
    with Engine(tiny, threads=1) as engine:
        key = engine.info.store_key
    victim = tmp_path / "victim"
    victim.write_bytes(b"the only copy")
    link = unprepared / ".packed" / key / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(UsageError, match="links are not followed there") as caught:
        Engine(unprepared, threads=1)
    assert str(caught.value.file) == str(link)
    assert "Delete" in str(caught.value.remedy)
    link.unlink()
    os.link(victim, link)
    with Engine(unprepared, threads=1) as engine:
        assert len(engine.score([5, 6, 7])) == 3
    assert victim.read_bytes() == b"the only copy"


@pytest.mark.parametrize("place", [".packed", ".packed/KEY", "packed_dir", "packed_dir/"])
def test_packed_weights_are_not_reached_through_a_link(
    place: str, tiny: Path, tmp_path: Path
) -> None:
    """A bundle from elsewhere could lead to another one's, and preparing would replace them."""
    with Engine(tiny, threads=1) as engine:
        key = engine.info.store_key
    victim, bundle = tmp_path / "victim", tmp_path / "bundle"
    victim.mkdir()
    shutil.copytree(tiny, bundle, ignore=shutil.ignore_patterns(".packed"))
    settings: dict[str, str] = {}
    if place.startswith("packed_dir"):
        (tmp_path / "link").symlink_to(victim)
        settings["packed_dir"] = str(tmp_path / "link") + "/" * place.endswith("/")
    else:
        link = bundle / place.replace("KEY", key)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(victim)
    with pytest.raises(UsageError, match="through a link"):
        Engine(bundle, threads=1, **settings)  # type: ignore[arg-type]
    assert list(victim.iterdir()) == []
    if not settings:
        with Engine(bundle, threads=1, packed_dir=str(tmp_path / "own")) as engine:
            assert len(engine.score([5, 6, 7])) == 3
        assert list(victim.iterdir()) == []
