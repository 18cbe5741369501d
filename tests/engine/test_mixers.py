# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers with mixers of their own: sliding windows in rings, and short convolutions."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moe_mobile import Engine
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle import read_manifest
from moe_mobile.bundle.writer import to_bytes
from moe_mobile.errors import BundleInvalidError
from moe_mobile.export.options import DEFAULT_MAX_BATCH
from tests.bundles import FEW_ROWS, BundleMaker, CheckpointMaker
from tests.engine.native import logits_after_prompt
from tests.oracles.logits import Logits, logits_of
from tests.tiny import CONTEXT, load_checkpoint, tiny_prompt

PROMPT, DECODED = 150, 8

# A window of 12 and a batch of few rows fit in a ring of 64 positions, which a prompt of 150 passes
# twice.


@pytest.mark.parametrize("case", ["mixtral", "lfm2_moe"])
def test_budgets_change_no_bit(case: str, checkpoint: CheckpointMaker, bundle: BundleMaker) -> None:
    path, prompt = bundle(case, "fp32"), tiny_prompt(PROMPT)
    found: dict[tuple[str, str], Logits] = {}
    for residency, cache in [
        ("slots", "25%"), ("slots", "50%"), ("slots", "100%"), ("programs", "50%"),
        ("resident", "100%"),
    ]:  # fmt: skip
        with Engine(path, cache, residency=residency, threads=1) as engine:
            found[residency, cache] = logits_after_prompt(engine, prompt, DECODED)
    reference = found["resident", "100%"]
    for key, logits in found.items():
        assert np.array_equal(logits, reference), key
    expected = logits_of(load_checkpoint(checkpoint(case)), prompt)[-1]
    assert np.abs(reference[0] - expected).max() < 1e-3


@pytest.mark.parametrize("case", ["mixtral", "lfm2_moe"])
def test_batches_of_a_prompt_change_no_state(case: str, bundle: BundleMaker) -> None:
    """Token by token, in batches of 16, and (attention) all at once. Kernels for many rows may sum
    in another order, but a state that a batch left wrong would be far off."""
    prompt = tiny_prompt(PROMPT)
    with Engine(bundle(case, "fp32"), threads=1) as engine:
        scored = engine.score(prompt)[-1]
        batched = logits_after_prompt(engine, prompt, DECODED)
    assert np.abs(scored - batched[0]).max() < 1e-4
    if case == "mixtral":
        with Engine(bundle(case, "fp32", DEFAULT_MAX_BATCH), threads=1) as engine:
            whole = logits_after_prompt(engine, prompt, DECODED)
        assert np.abs(whole - batched).max() < 1e-4


@pytest.mark.parametrize("case", ["mixtral", "lfm2_moe"])
def test_a_stopped_prompt_leaves_no_state(case: str, bundle: BundleMaker) -> None:
    prompt = tiny_prompt(PROMPT)
    with Engine(bundle(case, "fp32"), threads=1) as engine:
        expected = logits_after_prompt(engine, prompt, DECODED)

    def stop(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "prefill" and done > total // 2:
            raise KeyboardInterrupt

    with Engine(bundle(case, "fp32"), threads=1, progress=stop) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.generate(tiny_prompt(PROMPT + 7)[7:], 1)
        engine._progress = None
        assert np.array_equal(logits_after_prompt(engine, prompt, DECODED), expected)


def test_the_plan_counts_every_layers_state(bundle: BundleMaker) -> None:
    def kv_bytes(case: str, context: int, max_batch: int = FEW_ROWS) -> int:
        with Engine(bundle(case, "fp32", max_batch), threads=1, context=context) as engine:
            return engine.info.plan.kv_bytes

    # One layer with attention, two heads of 16 floats for keys and values; three convolutions,
    # two rows of 64 floats and their copies.
    position, convolutions = 2 * 2 * 16 * 4, 3 * 2 * 2 * 64 * 4
    for context in (128, CONTEXT):
        assert kv_bytes("lfm2_moe", context) == context * position + convolutions
        # Two layers with a window of 12: 64 positions in a ring, and 11 to return to.
        assert kv_bytes("mixtral", context) == 2 * (64 + 11) * position
    # A batch of 256 needs more than the context.
    assert kv_bytes("mixtral", CONTEXT, DEFAULT_MAX_BATCH) == 2 * CONTEXT * position


def _fewer_heads(layers: list[m.Layer]) -> None:
    (at,) = (i for i, layer in enumerate(layers) if isinstance(layer.mixer, m.AttentionMixer))
    layers[at] = dataclasses.replace(layers[at], mixer=m.AttentionMixer(0, num_kv_heads=1))


def _convolution_as_attention(layers: list[m.Layer]) -> None:
    (at,) = (i for i, layer in enumerate(layers) if isinstance(layer.mixer, m.AttentionMixer))
    other = next(i for i, layer in enumerate(layers) if i != at and layer.experts)
    dense, again = layers[other].dense, layers[at].dense
    layers[at] = dataclasses.replace(layers[at], dense=dense)
    layers[other] = dataclasses.replace(layers[other], dense=again)


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("change", [_fewer_heads, _convolution_as_attention])
def test_a_mixer_that_is_not_of_its_programs_is_refused_when_opened(
    change: Callable[[list[m.Layer]], None], prepared: bool, bundle: BundleMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle("lfm2_moe", "fp32"), folder)
    shutil.rmtree(folder / ".packed", ignore_errors=True)
    if prepared:
        Engine(folder, threads=1).close()
    manifest = read_manifest(folder)
    layers = list(manifest.layers)
    change(layers)
    changed = dataclasses.replace(manifest, layers=tuple(layers))
    (folder / m.MANIFEST_FILE).write_bytes(to_bytes(changed))
    with pytest.raises(BundleInvalidError, match="has no such method") as refusal:
        Engine(folder, threads=1)
    assert "layer-" in (refusal.value.file or "")
