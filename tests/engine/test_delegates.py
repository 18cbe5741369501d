# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Programs of different delegates in one bundle: XNNPACK's, and ExecuTorch's own kernels."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from moe_mobile import Engine
from moe_mobile.bundle import inspect_bundle, read_manifest, verify_bundle
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle.quantization import QuantizationSettings
from moe_mobile.bundle.writer import to_bytes
from moe_mobile.device.deploy.package import bundle_package
from moe_mobile.errors import BundleCorruptError, BundleInvalidError, UnsupportedError
from moe_mobile.export import export_bundle
from moe_mobile.runner import Runner
from tests.bundles import FEW_ROWS, CheckpointMaker, OnceMaker
from tests.engine.native import logits_after_prompt, same_bits
from tests.oracles.logits import Logits, logits_of
from tests.tiny import load_checkpoint, tiny_prompt

# A layer with a dense MLP, one with experts; the head has weights of its own.
CASE = "qwen3_moe-dense-layer"
EXPERTS, LAYERS = 8, 2
IDS = tiny_prompt(40)
PROMPT, DECODED = 24, 8

# The same float32 sums in another order. Measured: 4e-6.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def export(made_once: OnceMaker, checkpoint: CheckpointMaker) -> Exporter:
    return Exporter(made_once, checkpoint)


class Exporter:
    """Makes the case's bundle with these delegates, once per test run; a copy for each caller."""

    def __init__(self, made_once: OnceMaker, checkpoint: CheckpointMaker) -> None:
        self._made_once = made_once
        self._checkpoint = checkpoint

    def __call__(self, quant: str, dense: str, experts: str) -> Path:
        return self._made_once(
            f"delegates-{quant}-{dense}-{experts}",
            lambda out: export_bundle(
                self._checkpoint(CASE),
                out,
                QuantizationSettings(quant, dense="fp32", head="fp32"),
                dense_delegate=dense,
                expert_delegate=experts,
                max_batch=FEW_ROWS,
            ),
        )


@pytest.fixture(scope="module")
def mixed(export: Exporter) -> Path:
    """Portable dense programs, and experts that XNNPACK runs in 8da4w."""
    return export("8da4w", m.PORTABLE, m.XNNPACK)


@pytest.fixture(scope="module")
def experts_portable(export: Exporter) -> Path:
    return export("fp32", m.XNNPACK, m.PORTABLE)


@pytest.fixture(scope="module")
def all_portable(export: Exporter) -> Path:
    return export("fp32", m.PORTABLE, m.PORTABLE)


@pytest.fixture(scope="module")
def expected(checkpoint: CheckpointMaker) -> Logits:
    """What transformers computes."""
    return logits_of(load_checkpoint(checkpoint(CASE)), IDS)


def logits(bundle: Path, cache: str = "100%", residency: str = "slots", lanes: int = 2) -> Logits:
    """Scored rows, then rows decoded after a prompt."""
    with Engine(bundle, cache, residency=residency, lanes=lanes, threads=1) as engine:
        scored = engine.score(IDS)
        return np.concatenate([scored, logits_after_prompt(engine, IDS[:PROMPT], DECODED)])


def test_each_program_says_its_delegate(mixed: Path) -> None:
    manifest = read_manifest(mixed)
    assert manifest.delegate.name == m.XNNPACK
    assert {program.delegate for program in manifest.dense_programs} == {m.PORTABLE}
    assert {layer.experts.delegate for layer in manifest.layers if layer.experts} == {None}
    facts = inspect_bundle(mixed)["delegate"]
    assert (facts["dense"], facts["experts"]) == ((m.PORTABLE,), (m.XNNPACK,))
    for name in ("dense/layer-00.pte", "dense/layer-01.pte", "dense/head.pte"):
        assert b"XnnpackBackend" not in (mixed / name).read_bytes()
    assert b"XnnpackBackend" in (mixed / "experts/layer-01.shard").read_bytes()


def test_portable_dense_programs_compute_the_same_as_xnnpack(mixed: Path, export: Exporter) -> None:
    """Experts quantize their input: one that lies between two int8 steps may take the other."""
    reference = logits(export("8da4w", m.XNNPACK, m.XNNPACK))
    errors = np.abs(logits(mixed) - reference) / np.abs(reference).max()
    assert reference.std() > 0.5
    assert np.median(errors) < 1e-5
    assert errors.max() < 0.02


@pytest.mark.parametrize(
    ("dense", "experts"),
    [(m.PORTABLE, m.XNNPACK), (m.XNNPACK, m.PORTABLE), (m.PORTABLE, m.PORTABLE)],
)
def test_fp32_equals_transformers(
    dense: str, experts: str, export: Exporter, expected: Logits
) -> None:
    bundle = export("fp32", dense, experts)
    verify_bundle(bundle)
    actual = logits(bundle)
    assert np.abs(actual[: len(IDS)] - expected).max() < TOLERANCE
    after_prompt = actual[len(IDS)]
    assert np.abs(after_prompt - expected[PROMPT - 1]).max() < TOLERANCE


def test_slots_over_portable_dense_programs_change_no_bit(mixed: Path) -> None:
    with Engine(mixed, "25%", threads=1) as engine:
        assert engine.info.fallbacks == ()
        assert engine.info.settings.reading.residency == "slots"
        engine.score(IDS)
        assert engine.stats.totals.misses > EXPERTS
    reference = logits(mixed, residency="resident")
    for residency, cache, lanes in product(("slots", "programs"), ("25%", "50%", "100%"), (1, 4)):
        again = logits(mixed, cache, residency, lanes)
        assert same_bits(again, reference), (residency, cache, lanes)


def test_experts_without_packed_weights_become_programs(experts_portable: Path) -> None:
    with Engine(experts_portable, "50%", threads=1) as engine:
        (reason,) = engine.info.fallbacks
        assert "residency programs instead of slots" in reason
        assert "experts of the delegate portable have no packed weights" in reason
        assert engine.info.settings.reading.residency == "programs"
        # Whole programs: their bytes count.
        assert engine.info.plan.slot_bytes % 16384 == 0
        assert engine.info.plan.slot_bytes >= largest_expert(experts_portable)
    with Engine(experts_portable, residency="programs", threads=1) as engine:
        assert engine.info.fallbacks == ()
    with pytest.raises(UnsupportedError, match="have no packed weights") as refusal:
        Engine(experts_portable, residency="resident", threads=1)
    assert "Set `residency` to programs" in (refusal.value.remedy or "")


def largest_expert(bundle: Path) -> int:
    return read_manifest(bundle).memory.expert_bytes


def test_programs_of_portable_experts_change_no_bit(experts_portable: Path) -> None:
    reference = logits(experts_portable, "100%", "programs")
    for cache, lanes in product(("25%", "50%"), (1, 4)):
        other = logits(experts_portable, cache, "programs", lanes)
        assert same_bits(other, reference), (cache, lanes)


def test_dense_weights_are_in_the_plan(all_portable: Path) -> None:
    """Packed or not: a program that is loaded plainly stays in memory whole."""
    with Engine(all_portable, threads=1) as engine:
        planned = engine.info.plan.dense_bytes
    sizes = [program.bytes for program in read_manifest(all_portable).dense_programs]
    assert planned == sum(-(-size // 16384) * 16384 for size in sizes)


def test_only_packed_programs_are_in_the_store(
    mixed: Path, experts_portable: Path, all_portable: Path, tmp_path: Path
) -> None:
    # The template's index and program, the experts. | Weights and index of each dense method. Both
    # have the probes.
    blobs = {mixed: 3 + EXPERTS, experts_portable: 2 * (2 * LAYERS + 1) + 1, all_portable: 0}
    with Runner() as runner:
        for number, (bundle, count) in enumerate(blobs.items()):
            store = tmp_path / str(number)
            done = runner.request("prepare", bundle=str(bundle), packed_dir=str(store))
            assert done["experts"] == (EXPERTS if bundle is mixed else 0)
            assert done["already_prepared"] is (count == 0)
            assert store.exists() is (count > 0)
            again = runner.request("prepare", bundle=str(bundle), packed_dir=str(store))
            assert again["already_prepared"]
            packed = runner.request("verify", bundle=str(bundle), packed_dir=str(store))["packed"]
            assert (packed["blobs"] if packed else 0) == count
            assert packed is None or packed["complete"]


def test_a_store_without_dense_programs_is_checked_too(mixed: Path, tmp_path: Path) -> None:
    with Runner() as runner:
        runner.request("prepare", bundle=str(mixed), packed_dir=str(tmp_path))
        file = tmp_path / "methods.packed"
        data = bytearray(file.read_bytes())
        data[16384 + 100] ^= 1
        file.write_bytes(data)
        with pytest.raises(BundleCorruptError, match="blob 0"):
            runner.request("verify", bundle=str(mixed), packed_dir=str(tmp_path))


def test_shards_are_consumed_only_if_something_stands_for_them(
    mixed: Path, experts_portable: Path, tmp_path: Path
) -> None:
    with Runner() as runner:
        with pytest.raises(UnsupportedError, match="the engine needs the shards"):
            runner.request("prepare", bundle=str(experts_portable), consume=True)
        assert (experts_portable / "experts/layer-01.shard").exists()
        consumed = Path(shutil.copytree(mixed, tmp_path / "bundle"))
        before = logits(consumed, "50%")
        runner.request("prepare", bundle=str(consumed), consume=True)
    assert not (consumed / "experts/layer-01.shard").exists()
    assert same_bits(logits(consumed, "50%"), before)


def test_deploy_expects_a_store_of_the_packed_programs(mixed: Path, experts_portable: Path) -> None:
    package = bundle_package(mixed)
    assert set(package.layers) == {"experts/layer-01.shard"}
    assert package.methods_bytes == 0
    package = bundle_package(experts_portable)
    assert package.layers == {}
    assert package.methods_bytes == read_manifest(experts_portable).memory.dense_bytes


def join(into: Path, other: Path, head: bool) -> None:
    """Takes the head, or layer 1's experts, from another bundle of the same model."""
    mine, theirs = read_manifest(into), read_manifest(other)
    if head:
        program = dataclasses.replace(theirs.head, delegate=theirs.delegate_of(theirs.head))
        layers, path = mine.layers, program.path
    else:
        program, shard = mine.head, theirs.layers[1].experts
        assert shard is not None
        experts = dataclasses.replace(shard, delegate=theirs.delegate_of(shard))
        layers = (mine.layers[0], dataclasses.replace(mine.layers[1], experts=experts))
        path = shard.path
    shutil.copyfile(other / path, into / path)
    facts = m.memory_facts(
        layers=layers, head=program, embedding=mine.embedding, top_k=mine.moe.top_k
    )
    manifest = dataclasses.replace(mine, layers=layers, head=program, memory=facts)
    (into / m.MANIFEST_FILE).write_bytes(to_bytes(manifest))


def test_a_head_of_a_delegate_of_its_own(export: Exporter, expected: Logits) -> None:
    bundle = export("fp32", m.XNNPACK, m.XNNPACK)
    join(bundle, export("fp32", m.PORTABLE, m.XNNPACK), head=True)
    actual = logits(bundle, "25%")
    assert np.abs(actual[: len(IDS)] - expected).max() < TOLERANCE
    with Engine(bundle, threads=1) as engine:
        assert engine.info.fallbacks == ()


def test_a_store_of_other_delegates_is_made_again(export: Exporter, expected: Logits) -> None:
    """The programs of the same files, but now other ones are packed."""
    bundle = export("fp32", m.PORTABLE, m.XNNPACK)
    logits(bundle)
    (methods,) = bundle.glob(".packed/*/methods.packed")
    before = hashlib.sha256(methods.read_bytes()).digest()
    join(bundle, export("fp32", m.XNNPACK, m.XNNPACK), head=True)
    actual = logits(bundle)
    assert np.abs(actual[: len(IDS)] - expected).max() < TOLERANCE
    assert hashlib.sha256(methods.read_bytes()).digest() != before


@pytest.fixture
def layers_differ(made_once: OnceMaker, checkpoint: CheckpointMaker) -> Path:
    """Two layers with experts: XNNPACK's in the first, portable ones in the second."""

    def made(experts: str) -> Path:
        return made_once(
            f"delegates-of-layers-{experts}",
            lambda out: export_bundle(
                checkpoint("mixtral"), out, "fp32", expert_delegate=experts, max_batch=FEW_ROWS
            ),
        )

    bundle = made(m.XNNPACK)
    join(bundle, made(m.PORTABLE), head=False)
    return bundle


def test_layers_with_experts_of_different_delegates(
    layers_differ: Path, checkpoint: CheckpointMaker
) -> None:
    expected = logits_of(load_checkpoint(checkpoint("mixtral")), IDS)
    with Engine(layers_differ, "50%", threads=1) as engine:
        (reason,) = engine.info.fallbacks
        assert "its experts are of different delegates" in reason
        assert np.abs(engine.score(IDS) - expected).max() < TOLERANCE


@pytest.mark.parametrize("place", ["dense/layer-00.pte", "dense/head.pte"])
def test_a_portable_program_is_verified_too(place: str, export: Exporter) -> None:
    bundle = export("fp32", m.PORTABLE, m.XNNPACK)
    data = bytearray((bundle / place).read_bytes())
    data[len(data) // 2] ^= 4
    (bundle / place).write_bytes(data)
    with pytest.raises(BundleCorruptError, match="SHA-256") as refusal:
        Engine(bundle, threads=1)
    assert (refusal.value.file or "").endswith(place)


@pytest.mark.parametrize("portable", [True, False])
def test_a_program_that_says_the_wrong_delegate(export: Exporter, portable: bool) -> None:
    bundle = export("fp32", m.PORTABLE if portable else m.XNNPACK, m.XNNPACK)
    manifest = read_manifest(bundle)
    head = dataclasses.replace(manifest.head, delegate=None if portable else m.PORTABLE)
    (bundle / m.MANIFEST_FILE).write_bytes(to_bytes(dataclasses.replace(manifest, head=head)))
    with pytest.raises(BundleInvalidError, match="another delegate") as refusal:
        Engine(bundle, threads=1)
    assert (refusal.value.file or "").endswith("head.pte")
