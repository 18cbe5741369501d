# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The configurations of well-known models are accepted, and mean here what transformers reads.

The models of transformers are built without memory for their weights (device "meta").
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from moe_mobile.errors import CheckpointError, MoeMobileError, UnsupportedError
from moe_mobile.model.architecture import Architecture, Attention, QkNorm
from moe_mobile.model.families.common import Source
from moe_mobile.model.names import ModelTensors
from moe_mobile.model.random_weights import RandomStore
from moe_mobile.model.registry import describe

FOLDER = Path(__file__).parent / "published"

# Parameters in billions, as the models' makers name them.
BILLIONS = {
    "Mixtral-8x7B-v0.1": 46.7,
    "Mixtral-8x7B-Instruct-v0.1": 46.7,
    "Mixtral-8x22B-v0.1": 140.6,
    "Mixtral-8x22B-Instruct-v0.1": 140.6,
    "Mixtral-8x22B-v0.3": 140.6,
    "OLMoE-1B-7B-0924": 6.92,
    "OLMoE-1B-7B-0924-Instruct": 6.92,
    "OLMoE-1B-7B-0125": 6.92,
    "OLMoE-1B-7B-0125-Instruct": 6.92,
    "Qwen1.5-MoE-A2.7B": 14.3,
    "Qwen1.5-MoE-A2.7B-Chat": 14.3,
    "Qwen2-57B-A14B": 57.4,
    "Qwen2-57B-A14B-Instruct": 57.4,
    "Qwen3-30B-A3B": 30.5,
    "Qwen3-30B-A3B-Base": 30.5,
    "Qwen3-30B-A3B-Instruct-2507": 30.5,
    "Qwen3-30B-A3B-Thinking-2507": 30.5,
    "Qwen3-Coder-30B-A3B-Instruct": 30.5,
    "Qwen3-235B-A22B": 235,
    "Qwen3-235B-A22B-Instruct-2507": 235,
    "Qwen3-235B-A22B-Thinking-2507": 235,
    "Qwen3-Coder-480B-A35B-Instruct": 480,
}
ONE_OF_EACH = ("Mixtral-8x7B-v0.1", "OLMoE-1B-7B-0924", "Qwen1.5-MoE-A2.7B", "Qwen3-30B-A3B")
QWEN3, QWEN2 = "Qwen3-30B-A3B", "Qwen2-57B-A14B"


def published(name: str, **changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    # transformers writes into some of them.
    return {**raw, **copy.deepcopy(changes)}


def read(raw: dict[str, Any]) -> Architecture:
    return describe(Source(raw, "config.json", "model"))[1]


def by_transformers(raw: dict[str, Any], folder: Path) -> Any:
    (folder / "config.json").write_text(json.dumps(raw))
    return AutoConfig.from_pretrained(folder)


def facts_by_transformers(config: Any) -> dict[str, Any]:
    """What the modules say that transformers builds from a configuration."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config)
    rope = type(model.model.rotary_emb)(config)
    layers = model.model.layers
    attention = [layer.self_attn for layer in layers]
    experts = [layer.mlp.experts for layer in layers if hasattr(layer.mlp, "experts")]
    gate = next(layer.mlp.gate for layer in layers if hasattr(layer.mlp, "experts"))
    shared = getattr(layers[-1].mlp, "shared_expert", None)
    # Mixtral's modules ask the configuration at each step.
    windowed = [config] * len(layers) if config.model_type == "mixtral" else attention
    norms = {getattr(a, "q_norm", None) and a.q_norm.weight.numel() for a in attention}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab": model.get_input_embeddings().weight.shape[0],
        "hidden": model.model.norm.weight.numel(),
        "epsilon": model.model.norm.variance_epsilon,
        "context": config.max_position_embeddings,
        "tied": config.tie_word_embeddings,
        "bos": config.bos_token_id,
        "eos": config.eos_token_id,
        "moe layers": [hasattr(layer.mlp, "experts") for layer in layers],
        "experts": {(e.num_experts, *e.down_proj.shape[1:]) for e in experts},
        "top k": gate.top_k,
        # Mixtral's router has no such option: it always does.
        "renormalize": bool(getattr(gate, "norm_topk_prob", True)),
        "shared": 0 if shared is None else shared.down_proj.weight.shape[1],
        "widths": {(a.q_proj.weight.shape[0], a.k_proj.weight.shape[0]) for a in attention},
        "head": {a.head_dim for a in attention},
        "scale": {a.scaling for a in attention},
        "biases": {(a.q_proj.bias is not None, a.o_proj.bias is not None) for a in attention},
        "query norm": norms,
        "clip": getattr(config, "clip_qkv", None),
        "windows": [getattr(w, "sliding_window", None) or 0 for w in windowed],
        "frequencies": rope.inv_freq.tolist(),
        "amplitude": rope.attention_scaling,
    }


def facts_of(raw: dict[str, Any]) -> dict[str, Any]:
    """The same of our architecture."""
    family, model = describe(Source(raw, "config.json", "model"))
    mixers = [layer.mixer for layer in model.layers if isinstance(layer.mixer, Attention)]
    one = model.attention
    norm = {QkNorm.NONE: None, QkNorm.HEAD: one.head_dim, QkNorm.PROJECTION: one.query_width}
    (stop,) = model.eos_token_ids
    return {
        "parameters": ModelTensors(model, family.names, RandomStore()).num_parameters(),
        "vocab": model.vocab_size,
        "hidden": model.hidden_size,
        "epsilon": model.norm_epsilon,
        "context": model.context_length,
        "tied": model.tied_embedding,
        "bos": model.bos_token_id,
        "eos": stop,
        "moe layers": [layer.is_moe for layer in model.layers],
        "experts": {
            (model.moe.num_experts, model.hidden_size, model.moe.intermediate_size),
        },
        "top k": model.moe.top_k,
        "renormalize": model.moe.router.renormalize,
        "shared": model.moe.shared_intermediate_size,
        "widths": {(m.query_width, m.kv_width) for m in mixers},
        "head": {m.head_dim for m in mixers},
        "scale": {m.scale for m in mixers},
        "biases": {(m.qkv_bias, m.output_bias) for m in mixers},
        "query norm": {norm[m.qk_norm] for m in mixers},
        "clip": one.clip,
        "windows": [m.window for m in mixers],
        "frequencies": list(one.rope.inverse_frequencies),
        "amplitude": one.rope.amplitude,
    }


def test_each_file_is_tested() -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == set(BILLIONS)


@pytest.mark.parametrize("name", BILLIONS)
def test_published_configurations_mean_what_transformers_reads(name: str, tmp_path: Path) -> None:
    raw = published(name)
    ours = facts_of(raw)
    assert ours == facts_by_transformers(by_transformers(raw, tmp_path))
    assert ours["parameters"] / 1e9 == pytest.approx(BILLIONS[name], rel=0.005)


@pytest.mark.parametrize("name", BILLIONS)
def test_what_transformers_saves_again_means_the_same(name: str, tmp_path: Path) -> None:
    """Its present version writes other members, such as `rope_parameters` and `layer_types`."""
    saved = json.loads(by_transformers(published(name), tmp_path).to_json_string(use_diff=False))
    assert "rope_parameters" in saved
    assert "rope_theta" not in saved
    assert read(saved) == read(published(name))


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize(
    "members",
    [
        {"unsloth_fixed": True, "unsloth_version": "2025.9.1"},
        {"_attn_implementation_autoset": True, "_name_or_path": "org/model"},
        {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "max_length": 4096},
        {"is_decoder": False, "pruned_heads": {}, "cross_attention_hidden_size": None},
        {"tie_encoder_decoder": False, "torchscript": False, "add_cross_attention": False},
        {"quantization_config": None, "auto_map": None, "pretraining_tp": 0},
        {"torch_dtype": "float32", "dtype": "float16", "use_cache": False},
        {"is_causal": True},
        {"pretraining_tp": 1, "partial_rotary_factor": 1.0, "moe_layer_freq": 1},
        {"hidden_activation": "silu", "gradient_checkpointing": True},
        {"transformers.js_config": {"dtype": "q4"}, "_flash_attn_2_enabled": True},
        {"model_max_length": 256, "max_sequence_length": 256},
        {"is_decoder": True, "max_new_tokens": 2048, "min_p": 0.1},
        {"unk_token_id": 5, "cls_token_id": 1, "mask_token_id": 3},
        {"_experts_implementation": "grouped_mm"},
        {"rope_scaling": {"rope_type": "default", "factor": 2.0, "beta_fast": None}},
    ],
    ids=lambda members: next(iter(members)),
)
def test_members_that_change_nothing_are_accepted(
    name: str, members: dict[str, Any], tmp_path: Path
) -> None:
    changed = published(name, **members)
    assert read(changed) == read(published(name))
    if "auto_map" not in members:
        assert facts_of(changed) == facts_by_transformers(by_transformers(changed, tmp_path))


SCALED = "routed_scaling_factor"


@pytest.mark.parametrize("name", [QWEN2, QWEN3, "OLMoE-1B-7B-0924", "Mixtral-8x7B-v0.1"])
def test_what_softmax_routers_do_anyway_is_accepted(name: str, tmp_path: Path) -> None:
    plain = {"scoring_func": "softmax", "topk_method": "greedy", SCALED: 1.0}
    plain |= {"n_group": 1, "topk_group": 1}
    changed = published(name, **plain)
    assert read(changed) == read(published(name))
    assert facts_of(changed) == facts_by_transformers(by_transformers(changed, tmp_path))
    for other in (
        {"topk_group": 2},
        {"scoring_func": "sigmoid"},
        {"topk_method": "noaux_tc"},
        {SCALED: 2.5},
    ):
        with pytest.raises(UnsupportedError, match=f"unknown option '{next(iter(other))}'"):
            read(published(name, **other))


@pytest.mark.parametrize("value", [True, False])
def test_mixtral_normalizes_in_any_case(value: bool, tmp_path: Path) -> None:
    changed = published("Mixtral-8x7B-v0.1", norm_topk_prob=value)
    assert read(changed) == read(published("Mixtral-8x7B-v0.1"))
    assert facts_of(changed) == facts_by_transformers(by_transformers(changed, tmp_path))


@pytest.mark.parametrize("name", BILLIONS)
@pytest.mark.parametrize(
    "members",
    [
        {"hidden_act": "gelu"},
        {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
        {"partial_rotary_factor": 0.5},
        {"pretraining_tp": 2},
        {"hidden_activation": "gelu"},
        {"moe_layer_freq": 2},
        # What config_1m.json of the -2507 line has.
        {"dual_chunk_attention_config": {"chunk_size": 262144, "local_size": 8192}},
        {"attention_chunk_size": 8192},
        {"is_causal": False},
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        {"layer_types": ["linear_attention"]},
        {"norm_topk_prob": "always"},
        {"num_experts_per_tok": 10**4},
    ],
    ids=lambda members: next(iter(members)),
)
def test_members_that_change_the_computation_are_refused(
    name: str, members: dict[str, Any]
) -> None:
    with pytest.raises((UnsupportedError, CheckpointError)) as caught:
        read(published(name, **members))
    assert caught.value.file == "config.json"
    assert next(iter(members)).removesuffix("_config") in caught.value.cause or (
        "rope" in caught.value.cause or "quantized" in caught.value.cause
    )


@pytest.mark.parametrize(
    ("name", "members"),
    [
        (QWEN3, {"norm_topk_prob": False}),
        (QWEN2, {"norm_topk_prob": True}),
        (QWEN3, {"attention_bias": True}),
        ("OLMoE-1B-7B-0924", {"attention_bias": True}),
        ("OLMoE-1B-7B-0924", {"clip_qkv": 8.0}),
        (QWEN2, {"qkv_bias": False}),
        (QWEN3, {"use_sliding_window": True, "sliding_window": 4096}),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 4096}),
        (QWEN2, {"use_sliding_window": True, "max_window_layers": 5}),
        ("Mixtral-8x7B-v0.1", {"sliding_window": 4096}),
        (QWEN3, {"mlp_only_layers": [0, 47]}),
        (QWEN3, {"decoder_sparse_step": 2}),
        (QWEN2, {"decoder_sparse_step": 2}),
        (QWEN3, {"head_dim": 64}),
        (QWEN3, {"tie_word_embeddings": True}),
        (QWEN3, {"rope_theta": 5e6}),
        # As Qwen's model cards say for long texts.
        (
            QWEN3,
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                }
            },
        ),
        (
            QWEN3,
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                    "attention_factor": 1.0,
                }
            },
        ),
        ("Mixtral-8x22B-v0.1", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_members_that_are_honoured(name: str, members: dict[str, Any], tmp_path: Path) -> None:
    changed = published(name, **members)
    assert read(changed) != read(published(name))
    assert facts_of(changed) == facts_by_transformers(by_transformers(changed, tmp_path))


WRONG_COUNT = "number of `layer_types`"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("name", "members", "cause"),
    [
        *((name, {"layer_types": ["full_attention"] * 3}, WRONG_COUNT) for name in ONE_OF_EACH),
        *((name, {"layer_types": []}, WRONG_COUNT) for name in ONE_OF_EACH),
        *((name, {"head_dim": None}, "head_dim has no value") for name in ONE_OF_EACH[1:]),
        ("Mixtral-8x7B-v0.1", {"rope_scaling": YARN}, "head_dim has no value"),
    ],
)
def test_what_transformers_fails_with_is_refused(
    name: str, members: dict[str, Any], cause: str, tmp_path: Path
) -> None:
    changed = published(name, **members)
    with pytest.raises(CheckpointError, match=cause) as caught:
        read(changed)
    assert caught.value.file == "config.json"
    with pytest.raises(Exception, match=r"layer_types|NoneType"):
        facts_by_transformers(by_transformers(changed, tmp_path))


@pytest.mark.parametrize(
    "members", [{"head_dim": None}, {"head_dim": 128, "rope_scaling": YARN}], ids=str
)
def test_mixtral_derives_its_heads(members: dict[str, Any], tmp_path: Path) -> None:
    changed = published("Mixtral-8x7B-v0.1", **members)
    assert facts_of(changed) == facts_by_transformers(by_transformers(changed, tmp_path))


@pytest.mark.parametrize(
    ("name", "members"),
    [
        (QWEN3, {"shared_expert_intermediate_size": 5632}),
        (QWEN3, {"qkv_bias": True}),
        ("Mixtral-8x7B-v0.1", {"attention_bias": True}),
        ("OLMoE-1B-7B-0924", {"sliding_window": 4096}),
        (QWEN2, {"shared_expert_intermediate_size": 0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_a_family_does_not_have_is_refused(name: str, members: dict[str, Any]) -> None:
    with pytest.raises(MoeMobileError, match=next(iter(members))) as caught:
        read(published(name, **members))
    assert caught.value.file == "config.json"
