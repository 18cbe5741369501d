# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Bundles compute what transformers computes, and what torchao makes of it when quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moe_mobile.export import export_bundle
from tests.bundles import FEW_ROWS, BundleMaker, CheckpointMaker
from tests.oracles.interpreter import Interpreter
from tests.oracles.logits import logits_of
from tests.oracles.torchao_model import torchao_model
from tests.tiny import FAMILIES, VOCAB, load_checkpoint, tiny_prompt, write_checkpoint


def transformers_logits(checkpoint: Path, ids: list[int]) -> torch.Tensor:
    return torch.from_numpy(logits_of(load_checkpoint(checkpoint), ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_logits_are_those_of_transformers(
    family: str, checkpoint: CheckpointMaker, bundle: BundleMaker
) -> None:
    # Beyond Mixtral's window of 12.
    ids = tiny_prompt(48)
    expected = transformers_logits(checkpoint(family), ids)
    actual = Interpreter(bundle(family, "fp32")).logits(ids)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["8da8w", "8da4w"])
@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_logits_agree_with_torchao(
    family: str, quant: str, checkpoint: CheckpointMaker, bundle: BundleMaker
) -> None:
    """Nearly all to 1e-5 of the largest logit, scales rounded as XNNPACK keeps them.

    An int8 step apart lands what lies so close to the middle of two that the order of a sum
    decides, which depends on the processor: up to 0.0097 on one, below 0.00001 on another.
    """
    ids = tiny_prompt(48)
    interpreter = Interpreter(bundle(family, quant))
    actual = interpreter.logits(ids)
    model = torchao_model(checkpoint(family), quant, interpreter.embed(range(VOCAB)))
    exact = torch.from_numpy(logits_of(model, ids))
    model.round_scales()
    expected = torch.from_numpy(logits_of(model, ids))
    errors = relative_errors(actual, expected)
    print(f"{family} {quant}: worst {errors.max():.6f}, median {errors.median():.8f}")
    assert errors.max() < 0.02
    assert errors.median() < 1e-5
    # With float32 scales: half a percent for most; one in a hundred may see another expert chosen.
    assert relative_errors(actual, exact).quantile(0.9) < 0.01


def relative_errors(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (actual - expected).abs() / expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3_moe", {"mlp_only_layers": [0], "attention_bias": True, "sliding_window": 9}),
        ("qwen2_moe", {"decoder_sparse_step": 2, "qkv_bias": False, "norm_topk_prob": True}),
        ("olmoe", {"clip_qkv": None, "num_key_value_heads": 4, "attention_bias": True}),
        (
            "qwen2_moe",
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 7},
        ),
    ],
    ids=["dense-layer-and-biases", "sparse-step", "unclipped", "mixed-windows"],
)
def test_options_of_the_families(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    if "sliding_window" in changes:
        changes = {**changes, "use_sliding_window": True}
    source = write_checkpoint(tmp_path / "checkpoint", family, **changes)
    out = export_bundle(source, tmp_path / "bundle", "fp32", max_batch=FEW_ROWS)
    ids = tiny_prompt(32)
    expected = transformers_logits(source, ids)
    torch.testing.assert_close(Interpreter(out).logits(ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 64,
        },
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 1e4,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_scaled_rotations(rope: dict[str, object], tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "checkpoint", "mixtral", rope_parameters=rope, head_dim=16)
    out = export_bundle(source, tmp_path / "bundle", "fp32", max_batch=FEW_ROWS)
    ids = tiny_prompt(48)
    expected = transformers_logits(source, ids)
    torch.testing.assert_close(Interpreter(out).logits(ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stacked", [False, True], ids=["per-expert", "stacked"])
def test_storage_variants(dtype: torch.dtype, stacked: bool, tmp_path: Path) -> None:
    for family in ("mixtral", "qwen2_moe"):
        source = write_checkpoint(
            tmp_path / family, family, dtype=dtype, shard_size="100KB", stacked=stacked
        )
        assert len(list(source.glob("*.safetensors"))) > 1
        out = export_bundle(source, tmp_path / f"{family}-bundle", "fp32", max_batch=FEW_ROWS)
        ids = tiny_prompt(16)
        expected = transformers_logits(source, ids)
        torch.testing.assert_close(Interpreter(out).logits(ids), expected, atol=1e-4, rtol=0)
