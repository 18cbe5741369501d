# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle with two precisions of each expert, in slots of two classes under one budget."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from moe_mobile import Engine, RoutingSettings
from moe_mobile.bundle import read_manifest, verify_bundle
from moe_mobile.bundle.quantization import QuantizationSettings
from moe_mobile.cli import cli
from moe_mobile.device.deploy.package import bundle_package
from moe_mobile.device.local import LocalDevice
from moe_mobile.errors import BudgetError, BundleCorruptError, CancelledError, UsageError
from moe_mobile.export import export_bundle
from moe_mobile.routing.capacity import parse_capacity
from moe_mobile.routing.replay import replay
from moe_mobile.routing.trace import write_trace
from moe_mobile.routing.trace_engine import record_engine
from moe_mobile.runner import Runner
from tests.bundles import FEW_ROWS, CheckpointMaker, OnceMaker
from tests.engine.agreement import replayed, simulated
from tests.engine.native import logits_after_prompt, same_bits
from tests.oracles.interpreter import Interpreter
from tests.oracles.logits import Logits, logits_of
from tests.oracles.torchao_model import half_precision_cache, torchao_model
from tests.tiny import EXPERTS, TOP_K, VOCAB

NAME = "qwen3_moe-wide"
LAYERS = 2
IDS = [(11 * i**3 + 7 * i**2 + 13 * i + 5) % (VOCAB - 3) + 3 for i in range(32)]
PROMPT, DECODED = IDS[:20], 6


def export_two(checkpoint: Path, out: Path, **options: object) -> Path:
    formats = QuantizationSettings("8da8w", also_quant="8da4w")
    return export_bundle(checkpoint, out, formats, max_batch=FEW_ROWS, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def two(made_once: OnceMaker, checkpoint: CheckpointMaker) -> Path:
    """Experts in 8da8w and in 8da4w."""
    return made_once("two-precisions", lambda out: export_two(checkpoint(NAME), out))


@pytest.fixture(scope="module")
def full(made_once: OnceMaker, checkpoint: CheckpointMaker) -> Path:
    """The same with experts in 8da8w alone."""
    source = checkpoint(NAME)
    return made_once(
        "full-precision", lambda out: export_bundle(source, out, "8da8w", max_batch=FEW_ROWS)
    )


@pytest.fixture(scope="module")
def low(made_once: OnceMaker, checkpoint: CheckpointMaker) -> Path:
    """The same with experts in 8da4w alone."""
    source, formats = checkpoint(NAME), QuantizationSettings("8da4w", dense="8da8w", head="8da8w")
    return made_once(
        "low-precision", lambda out: export_bundle(source, out, formats, max_batch=FEW_ROWS)
    )


def outputs(bundle: Path, cache: str, **settings: object) -> list[Logits]:
    """What decoding alone gives, and a prompt in several batches with decoding after it."""
    with Engine(bundle, cache, threads=1, **settings) as engine:  # type: ignore[arg-type]
        assert engine.info.fallbacks == ()
        scored = engine.score(IDS)
        return [scored, logits_after_prompt(engine, PROMPT, DECODED)]


def test_shards_are_those_of_bundles_of_one_precision(two: Path, full: Path, low: Path) -> None:
    manifest = read_manifest(two)
    assert manifest.precisions == ("8da8w", "8da4w")
    assert manifest.quantization.group_size == 0
    for layer in range(LAYERS):
        name = f"experts/layer-{layer:02}"
        assert (two / f"{name}.shard").read_bytes() == (full / f"{name}.shard").read_bytes()
        assert (two / f"{name}.8da4w.shard").read_bytes() == (low / f"{name}.shard").read_bytes()
    verify_bundle(two)


def test_full_and_low_equal_bundles_of_one_precision(two: Path, full: Path, low: Path) -> None:
    in_full, in_low = outputs(full, "50%"), outputs(low, "50%")
    assert not same_bits(in_full, in_low)
    for cache in ("25%", "50%", "100%"):
        assert same_bits(outputs(two, cache), in_full)
        assert same_bits(outputs(two, cache, precision="low"), in_low)
    with Engine(two, "50%", threads=1) as engine:
        assert not engine.info.routing.lossy
        assert [one.quantization for one in engine.info.plan.classes] == ["8da8w"]
    with Engine(two, "50%", RoutingSettings(precision="low"), threads=1) as engine:
        assert engine.info.routing.lossy
        assert [one.quantization for one in engine.info.plan.classes] == ["8da4w"]


def test_output_depends_on_neither_budget_nor_residency_nor_lanes(two: Path) -> None:
    expected = outputs(two, "100%", precision="ranks:1")
    for residency, cache, lanes in product(("slots", "programs"), ("25%", "60%"), (1, 3)):
        got = outputs(two, cache, precision="ranks:1", residency=residency, lanes=lanes)
        assert same_bits(got, expected), (residency, cache, lanes)
    assert same_bits(outputs(two, "50%", precision="ranks:1", residency="resident"), expected)
    for pool, eviction in (("layer", "lru"), ("global", "lfu")):
        assert same_bits(
            outputs(two, "50%", precision="ranks:1", pool=pool, eviction=eviction), expected
        )
    for other in ("full", "low"):
        assert not same_bits(outputs(two, "50%", precision=other), expected)


def test_both_classes_share_the_budget_and_are_used(two: Path) -> None:
    with Engine(
        two, "50%", precision="ranks:1", initial_cache="cold", threads=1, direct=False
    ) as engine:
        info = engine.info
        plan = info.plan
        assert [one.variant for one in plan.classes] == [0, 1]
        assert [one.ranks for one in plan.classes] == [1, TOP_K - 1]
        best, rest = plan.classes
        assert best.slot_bytes > rest.slot_bytes
        # As many slots of each as it has ranks, as far as the bytes go.
        half = EXPERTS * LAYERS // 2 * (best.slot_bytes + rest.slot_bytes)
        assert plan.experts_budget_bytes == half
        assert abs(best.slots - rest.slots) <= 1
        used = best.slots * best.slot_bytes + rest.slots * rest.slot_bytes
        assert half - best.slot_bytes - rest.slot_bytes < used <= half
        assert "8da8w" in plan.text
        assert "8da4w" in plan.text
        assert info.routing.lossy
        assert info.routing.note == "the best 1 of 2 experts run in 8da8w, the others in 8da4w"
        assert info.settings.routing.precision == "ranks:1"
        assert info.model.expert_precisions == ("8da8w", "8da4w")

        engine.score(IDS[:1])
        first = engine.stats.tokens[0]
        assert (first.hits, first.misses) == (0, LAYERS * TOP_K)
        assert first.bytes_read == LAYERS * (best.slot_bytes + rest.slot_bytes)
        engine.score(IDS)
        assert engine.stats.totals.hits > 0


def test_ranks_equal_torchao(two: Path, checkpoint: CheckpointMaker) -> None:
    """As in tests/engine/test_quantized.py, with its tolerances."""
    embedding = Interpreter(two).embed(range(VOCAB))
    oracle = torchao_model(checkpoint(NAME), "8da8w", embedding, low="8da4w", full_ranks=1)
    with half_precision_cache(oracle):
        expected = logits_of(oracle, IDS)
    with Engine(two, "50%", precision="ranks:1", threads=1) as engine:
        actual = engine.score(IDS)
    errors = np.abs(actual - expected) / expected.std()
    assert errors.max() < 0.1
    assert np.median(errors) < 0.01


def test_an_expert_counts_as_cached_in_the_precision_that_its_rank_has(two: Path) -> None:
    """With everything in memory, routing by the cache is exact routing."""
    exact = outputs(two, "100%", precision="ranks:1")
    routed = outputs(
        two, "100%", precision="ranks:1", routing="exact+drop-cold:0.9", initial_cache="warm"
    )
    with Engine(
        two, "100%", precision="ranks:1", routing="exact+drop-cold:0.9", threads=1
    ) as engine:
        assert engine.info.routing.note.startswith("the best 1 of 2")
    resident = outputs(
        two, "100%", precision="ranks:1", routing="exact+drop-cold:0.9", residency="resident"
    )
    assert same_bits(resident, exact)
    assert not same_bits(routed, exact)  # it began empty, so some were dropped


@pytest.mark.parametrize("residency", ["slots", "programs"])
def test_resizes_change_the_memory_of_both_precisions_and_not_the_output(
    two: Path, residency: str
) -> None:
    settings = {"precision": "ranks:1", "residency": residency, "threads": 1}
    with Engine(two, "100%", **settings) as engine:  # type: ignore[arg-type]
        expected = list(engine.generate(PROMPT, 40, ignore_eos=True))
    budgets = {4: "25%", 12: "100%", 20: "60%", 28: "30%"}
    with Engine(two, "50%", **settings) as engine:  # type: ignore[arg-type]
        for _ in range(2):
            tokens = []
            for token in engine.generate(PROMPT, 40, ignore_eos=True):
                tokens.append(token)
                if len(tokens) not in budgets:
                    continue
                share = budgets[len(tokens)]
                engine.resize(share)
                classes = engine.info.plan.classes
                assert [one.variant for one in classes] == [0, 1]
                with Engine(two, share, **settings) as other:  # type: ignore[arg-type]
                    assert classes == other.info.plan.classes
            assert tokens == expected


def test_prepare_makes_only_what_is_missing(two: Path, tmp_path: Path) -> None:
    bundle = Path(
        shutil.copytree(two, tmp_path / "bundle", ignore=shutil.ignore_patterns(".packed"))
    )
    before = outputs(bundle, "50%", precision="ranks:1")
    (store,) = (bundle / ".packed").iterdir()
    files = {path.name: path.read_bytes() for path in store.glob("*.packed")}
    assert sorted(files) == [
        "layer-00.8da4w.packed", "layer-00.packed", "layer-01.8da4w.packed", "layer-01.packed",
        "methods.packed",
    ]  # fmt: skip
    (store / "layer-01.8da4w.packed").unlink()
    kept = (store / "layer-01.packed").stat()
    assert same_bits(outputs(bundle, "50%", precision="ranks:1"), before)
    assert {path.name: path.read_bytes() for path in store.glob("*.packed")} == files
    assert (store / "layer-01.packed").stat().st_mtime_ns == kept.st_mtime_ns


def test_consumed_shards_of_both_precisions_are_not_missed(two: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(two, tmp_path / "bundle"))
    before = outputs(bundle, "50%", precision="ranks:1")
    with Runner() as runner:
        answer = runner.request("prepare", bundle=str(bundle), consume=True)
        assert answer["experts"] == 2 * LAYERS * EXPERTS
        assert not list((bundle / "experts").glob("*.shard"))
        assert runner.request("verify", bundle=str(bundle))["packed"]["complete"] is True
    assert same_bits(outputs(bundle, "50%", precision="ranks:1"), before)


def test_verify_finds_damage_in_a_variants_files(two: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(two, tmp_path / "bundle"))
    with Runner() as runner:
        store = Path(runner.request("prepare", bundle=str(bundle))["packed_dir"])
        for path in (store / "layer-01.8da4w.packed", bundle / "experts/layer-00.8da4w.shard"):
            data = bytearray(path.read_bytes())
            data[20000] ^= 4
            path.write_bytes(data)
            with pytest.raises(BundleCorruptError, match=r"8da4w\."):
                runner.request("verify", bundle=str(bundle))
    with pytest.raises(BundleCorruptError, match=r"8da4w\.shard"):
        verify_bundle(bundle)


def test_deploy_sends_both_precisions(two: Path) -> None:
    package = bundle_package(two)
    paths = {file.path for file in package.files}
    for layer in range(LAYERS):
        for precision in ("", ".8da4w"):
            shard = f"experts/layer-{layer:02}{precision}.shard"
            assert shard in paths
            assert package.layers[shard][0] == f"layer-{layer:02}{precision}.packed"


def test_an_interrupted_export_continues(
    two: Path, checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int, detail: str = "") -> None:
        if detail == "layer 1, expert 3, 8da4w":
            raise KeyboardInterrupt

    out = tmp_path / "bundle"
    with pytest.raises(CancelledError):
        export_two(checkpoint(NAME), out, progress=stop)
    again: list[str] = []
    export_two(checkpoint(NAME), out, progress=lambda *step: again.append(step[-1]))
    assert "layer 0, expert 3, 8da4w" not in again
    assert "layer 1, expert 3, 8da4w" in again
    for path in (out / "experts").iterdir():
        assert path.read_bytes() == (two / "experts" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("precision", "cause"),
    [
        ("ranks:2", "a token has 2 experts"),
        ("ranks:0", "invalid precision"),
        ("best", "invalid precision"),
    ],
)
def test_a_wrong_precision_is_refused(two: Path, precision: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        Engine(two, precision=precision)
    assert caught.value.setting == "precision"


def test_a_bundle_of_one_precision_has_no_other(full: Path) -> None:
    with pytest.raises(UsageError, match="holds its experts in 8da8w only"):
        Engine(full, precision="low")


def test_a_budget_below_what_a_token_uses_in_one_precision_is_refused(two: Path) -> None:
    with Engine(two, precision="ranks:1", threads=1) as engine:
        cycle = LAYERS * sum(one.slot_bytes for one in engine.info.plan.classes)
    with pytest.raises(BudgetError, match="one token uses 2 in 8da4w"):
        Engine(two, f"{cycle // 1024 - 1}KiB", precision="ranks:1")


@pytest.mark.parametrize(
    "routing", ["exact", "cache-prior:0.5", "max-rank:4", "exact+drop-cold:0.75"]
)
@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("precision", ["ranks:1", "low"])
def test_the_lab_counts_what_the_engine_counts(
    two: Path, routing: str, pool: str, precision: str
) -> None:
    trace = record_engine(LocalDevice(), two, IDS * 3, settings={"threads": 1})
    settings: dict[str, Any] = {"precision": precision, "pool": pool, "initial_cache": "cold"}
    with Engine(two, "50%", routing=routing, threads=1, **settings) as engine:
        held = {one.variant: one.slots // LAYERS for one in engine.info.plan.classes}
    ours = replayed(two, trace, cache="50%", routing=routing, **settings)
    lab = simulated(trace, held.get(0, 0), routing=routing, low_capacity=held[1], **settings)
    assert np.array_equal(ours, lab)
    assert ours[:, 1].sum() > 0
    assert ours[:, 3].any() == ("exact" not in routing)


def test_a_trace_names_the_precision_that_it_was_recorded_in(two: Path, tmp_path: Path) -> None:
    recorded = {
        "full": "8da8w",
        "low": "8da4w+8da8w",
        "ranks:1": "8da8w+8da4w ranks:1",
    }
    paths = []
    for setting, precision in recorded.items():
        settings = {"threads": 1, "precision": setting}
        trace = record_engine(LocalDevice(), two, IDS, settings=settings)
        assert trace.precision == precision
        paths.append(tmp_path / precision)
        write_trace(paths[-1], trace)
    for other in paths[1:]:
        with pytest.raises(UsageError, match="the precision is ") as refused:
            replay([paths[0], other], ["exact"], [parse_capacity("50%")])
        assert refused.value.file == str(other)


def test_the_command_line_makes_and_runs_both_precisions(
    two: Path, checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    answer = CliRunner().invoke(
        cli,
        ["export", str(checkpoint(NAME)), str(out), "--quant", "8da8w", "--also-quant", "8da4w",
         "--max-batch", str(FEW_ROWS), "--json"],
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["expert_precisions"] == ["8da8w", "8da4w"]
    for path in (out / "experts").iterdir():
        assert path.read_bytes() == (two / "experts" / path.name).read_bytes()

    answer = CliRunner().invoke(cli, ["info", str(out), "--precision", "ranks:1", "--json"])
    assert answer.exit_code == 0, answer.output
    info = json.loads(answer.stdout)
    assert info["routing"]["lossy"] is True
    assert info["settings"]["precision"] == "ranks:1"
    assert [one["quantization"] for one in info["plan"]["classes"]] == ["8da8w", "8da4w"]
    shown = CliRunner().invoke(cli, ["inspect", str(out)])
    assert "experts 8da8w and 8da4w" in shown.stdout
