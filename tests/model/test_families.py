# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters: what they make of configurations, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import CheckpointError, MoeMobileError, UnsupportedError, UsageError
from moe_mobile.model.architecture import Architecture, Convolution, QkNorm
from moe_mobile.model.families.common import Source
from moe_mobile.model.presets import PRESETS, RandomWeights, preset_config
from moe_mobile.model.registry import FAMILIES, describe
from moe_mobile.model.source import open_model
from tests.files import pipe
from tests.tiny import FAMILIES as TINY_FAMILIES
from tests.tiny import tiny_config, write_checkpoint


def raw_config(family: str, **changes: Any) -> dict[str, Any]:
    """The JSON that transformers would save, with members replaced afterwards."""
    raw: dict[str, Any] = json.loads(tiny_config(family).to_json_string(use_diff=False))
    return {**raw, **changes}


def architecture(family: str, **changes: Any) -> Architecture:
    return describe(Source(raw_config(family, **changes), "config.json", "tiny"))[1]


def test_neutral_members_are_not_acted_upon() -> None:
    """transformers would make a label for each."""
    changed = architecture("olmoe", num_labels=10**12, id2label={"0": "x"})
    assert changed == architecture("olmoe")


def test_the_registry_is_complete() -> None:
    assert set(FAMILIES) == set(TINY_FAMILIES)
    for model_type, family in FAMILIES.items():
        assert family.model_type == model_type
        assert family.title
        assert family.models
        assert family.notes


def test_what_the_adapters_make_of_tiny_configurations() -> None:
    mixtral = architecture("mixtral")
    assert [layer.is_moe for layer in mixtral.layers] == [True, True]
    assert [layer.mixer for layer in mixtral.layers] == [replace(mixtral.attention, window=12)] * 2
    assert mixtral.moe.router.renormalize
    qwen2 = architecture("qwen2_moe")
    assert qwen2.attention.qkv_bias
    assert not qwen2.attention.output_bias
    assert qwen2.moe.shared_intermediate_size == 96
    qwen3 = architecture("qwen3_moe")
    assert qwen3.attention.qk_norm is QkNorm.HEAD
    assert (qwen3.attention.query_width, qwen3.attention.kv_width) == (128, 64)
    assert qwen3.tied_embedding
    olmoe = architecture("olmoe")
    assert olmoe.attention.qk_norm is QkNorm.PROJECTION
    assert olmoe.attention.clip == 1.5
    lfm2 = architecture("lfm2_moe")
    assert [layer.is_moe for layer in lfm2.layers] == [False, True, True, True]
    attention = lfm2.layers[2].mixer
    assert [layer.mixer for layer in lfm2.layers] == [
        *[Convolution(3)] * 2,
        attention,
        Convolution(3),
    ]
    assert lfm2.attention.qk_norm is QkNorm.HEAD
    assert lfm2.moe.router == RouterSpec("sigmoid", True, scale=1.5, epsilon=1e-6)
    assert lfm2.moe.router_bias
    assert lfm2.tied_embedding


@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"attention_sinks": 4}, "unknown option 'attention_sinks' = 4"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ({"rope_parameters": {"rope_type": ["x"], "rope_theta": 1e4}}, "rope_type"),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 8,
                    "long_factor": [1.0] * 8,
                    "factor": 4.0,
                },
                "head_dim": 16,
            },
            "rope_type 'longrope'",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1]}},
            "unknown rope option 'mrope_section'",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 0.5,
                }
            },
            "partial_rotary_factor",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_all_adapters_refuse_these(family: str, changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(UnsupportedError, match=cause) as caught:
        architecture(family, **changes)
    assert caught.value.file == "config.json"


@pytest.mark.parametrize(
    ("family", "changes", "cause"),
    [
        ("qwen3_moe", {"mlp_only_layers": [0, 1]}, "no layer has experts"),
        ("qwen3_moe", {"shared_expert_intermediate_size": 64}, "unknown option"),
        ("qwen2_moe", {"layer_types": ["full_attention", "chunked_attention"]}, "unknown kind"),
        ("qwen2_moe", {"clip_qkv": 8.0}, "unknown option 'clip_qkv'"),
        ("mixtral", {"attention_bias": True}, "unknown option 'attention_bias'"),
        ("olmoe", {"head_dim": 32}, "must equal hidden_size"),
        ("lfm2_moe", {"conv_bias": True}, "conv_bias = True is not supported"),
        ("lfm2_moe", {"layer_types": ["conv"] * 4}, "no layer has attention"),
        ("lfm2_moe", {"layer_types": ["conv"] * 3 + ["chunked_attention"]}, "unknown kind"),
        ("lfm2_moe", {"num_dense_layers": 4}, "no layer has experts"),
        ("olmoe", {"sliding_window": 16}, "unknown option 'sliding_window'"),
    ],
)
def test_single_adapters_refuse_these(family: str, changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(UnsupportedError, match=cause):
        architecture(family, **changes)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"hidden_size": 0}, "hidden_size must be an integer"),
        ({"hidden_size": 66}, "hidden_size 66 is not a multiple"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads"),
        ({"num_experts_per_tok": 9}, r"num_experts_per_tok must be an integer in 1\.\.8"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps must be positive"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers must be at most 4096"),
        ({"eos_token_id": 160}, "eos_token_id must be up to 16 token ids"),
        ({"eos_token_id": [2, -1]}, "eos_token_id must be up to 16 token ids"),
        ({"bos_token_id": 160}, "bos_token_id"),
        ({"pad_token_id": 160}, "pad_token_id 160 has no row in the embedding"),
        ({"pad_token_id": -161}, "pad_token_id -161 has no row in the embedding"),
        ({"pad_token_id": "0"}, "pad_token_id"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "config.json"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -3.0}}, "frequencies"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "config.json"),
        ({"rope_parameters": None, "rope_theta": None}, "rope_theta must be a number, not null"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": None}},
            "factor must be a number, not null",
        ),
    ],
    ids=str,
)
def test_configurations_that_contradict_themselves(changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(CheckpointError, match=cause) as caught:
        architecture("olmoe", **changes)
    assert caught.value.file == "config.json"


def test_a_padding_token_counts_from_both_ends() -> None:
    for token in (-160, 159):
        assert architecture("olmoe", pad_token_id=token) == architecture("olmoe")


def test_an_epsilon_by_another_name_changes_nothing_where_transformers_reads_none() -> None:
    assert architecture("lfm2_moe", rms_norm_eps=0.5) == architecture("lfm2_moe")


def test_unknown_architectures() -> None:
    known = ", ".join(sorted(FAMILIES))
    with pytest.raises(
        UnsupportedError, match=f"model_type 'llama' is not supported, only {known}"
    ):
        describe(Source({"model_type": "llama"}, "config.json", "x"))
    with pytest.raises(CheckpointError, match="model_type is missing"):
        describe(Source({}, "config.json", "x"))


def test_several_stop_tokens_are_sorted() -> None:
    assert architecture("olmoe", eos_token_id=[9, 3, 9]).eos_token_ids == (3, 9)
    assert architecture("olmoe", eos_token_id=None).eos_token_ids == ()
    assert architecture("olmoe", bos_token_id=None).bos_token_id is None


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1e6},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
        {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 16.0,
        },
        {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ],
    ids=lambda rope: str(rope["rope_type"]),
)
def test_rotations_are_those_of_transformers(rope: dict[str, Any]) -> None:
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRotaryEmbedding

    config = tiny_config("qwen3_moe", rope_parameters=dict(rope))
    reference = Qwen3MoeRotaryEmbedding(config)
    ours = architecture("qwen3_moe", rope_parameters=dict(rope)).attention.rope
    assert torch.equal(torch.tensor(ours.inverse_frequencies), reference.inv_freq)
    assert ours.amplitude == reference.attention_scaling


def test_older_rope_members_are_understood() -> None:
    raw = raw_config("mixtral", rope_theta=5e5, rope_scaling=None)
    del raw["rope_parameters"]
    rope = describe(Source(raw, "config.json", "x"))[1].attention.rope
    assert rope.inverse_frequencies[1] == pytest.approx(5e5 ** (-2 / 16))
    raw["rope_scaling"] = {"type": "linear", "factor": 2.0}
    scaled = describe(Source(raw, "config.json", "x"))[1].attention.rope
    assert scaled.inverse_frequencies[0] == pytest.approx(0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_accepted(name: str) -> None:
    model = open_model(RandomWeights(name, layers=2))
    assert len(model.architecture.layers) == 2
    whole = open_model(RandomWeights(name.lower()))
    expected = {
        "OLMoE-1B-7B": 6.9e9,
        "Qwen1.5-MoE-A2.7B": 14.3e9,
        "Qwen3-30B-A3B": 30.5e9,
        "Mixtral-8x7B": 46.7e9,
        "DeepSeek-V2-Lite": 15.7e9,
        "LFM2-8B-A1B": 8.34e9,
    }[name]
    assert whole.tensors.num_parameters() == pytest.approx(expected, rel=0.06)


def test_a_preset_of_few_layers_has_attention_and_experts() -> None:
    def kinds(layers: int) -> list[tuple[bool, bool]]:
        architecture = open_model(RandomWeights("LFM2-8B-A1B", layers=layers)).architecture
        return [(isinstance(x.mixer, Convolution), x.is_moe) for x in architecture.layers]

    assert kinds(1) == [(False, True)]
    assert kinds(2) == [(True, False), (False, True)]
    assert kinds(4) == [(True, False), (True, False), (False, True), (True, True)]


def test_presets_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="unknown preset 'GPT-9'") as caught:
        preset_config(RandomWeights("GPT-9"))
    assert "OLMoE-1B-7B" in str(caught.value)
    for setting, number in (("layers", 0), ("layers", 4097), ("vocab_size", 2**24 + 1)):
        with pytest.raises(
            UsageError, match=f"{setting}: {number} is not a number from 1 to"
        ) as out:
            preset_config(RandomWeights("OLMoE-1B-7B", **{setting: number}))
        assert out.value.setting == setting


def test_random_slices_are_those_of_the_whole() -> None:
    model = open_model(RandomWeights("OLMoE-1B-7B", layers=1, vocab_size=9000))
    table = model.tensors.embedding()
    whole = model.store.read(table)
    assert torch.equal(model.store.read(table.slice_rows(4000, 8200)), whole[4000:8200])
    assert torch.equal(model.store.read(table), whole)
    assert float(whole.std()) == pytest.approx(24 * 0.7 / 2048**0.5, rel=0.02)
    up = model.store.read(next(iter(model.tensors.expert(0, 0).values())))
    assert float(up.std()) == pytest.approx(0.7 / 2048**0.5, rel=0.02)
    other = open_model(RandomWeights("OLMoE-1B-7B", layers=1, vocab_size=9000, seed=1))
    assert not torch.equal(other.store.read(table), whole)
    norm = model.store.read(model.tensors.layer(0)["qkv.norm.weight"])
    assert 0.8 < float(norm.min()) < float(norm.max()) < 1.2


def test_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    cases: list[tuple[Any, type[MoeMobileError], str]] = [
        (tmp_path / "absent", UsageError, "no such checkpoint folder"),
        ("no/such/hub/id", UsageError, "no such checkpoint folder"),
        (tmp_path, CheckpointError, "config.json is missing"),
        (tmp_path / "pipe", UsageError, "it is a pipe, a socket or a device, not the folder"),
    ]
    pipe(tmp_path / "pipe")
    for source, kind, cause in cases:
        with pytest.raises(kind, match=cause):
            open_model(source)
    for text, cause in (("[]", "JSON object"), ("{", "not valid JSON"), ("[" * 10**5, "JSON")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=cause):
            open_model(tmp_path)


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("Demo", "demo"),
        ("demoo", "demo"),
        ("Olmoe", "olmoe"),
        ("./olmo", "./olmoe"),
        # No ids of a hub: their folder is here.
        ("models/mixtrall", "models/mixtral"),
        ("models/unlike", None),
    ],
)
@pytest.mark.parametrize("demo", [False, True])
def test_a_mistyped_source_is_answered_with_a_question(
    source: str, meant: str | None, demo: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = ("olmoe", "models/mixtral", *(["demo"] if demo else []))
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moe_mobile.model.source.fetch_description", pytest.fail)
    with pytest.raises(UsageError, match="no such checkpoint folder") as refusal:
        open_model(source)
    remedy = refusal.value.remedy or ""
    assert remedy.startswith(f"Did you mean {meant!r}? Give" if meant else "Give a folder")
    assert ("For the Hugging Face id" in remedy) == source.startswith("models/")


def test_a_missing_tensor_is_found_before_any_work(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, "mixtral")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_local_experts": 9}))
    with pytest.raises(
        CheckpointError, match=r"gate\.weight has shape \[8, 64\].*\[9, 64\]"
    ) as told:
        open_model(source)
    assert "not those of this config.json" in (told.value.remedy or "")
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\..* is missing"):
        open_model(source)


def test_generation_config_names_the_stop_tokens(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, "olmoe")
    (source / "generation_config.json").write_text('{"eos_token_id": [5, 4]}')
    assert open_model(source).architecture.eos_token_ids == (4, 5)
