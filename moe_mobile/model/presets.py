# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Real dimensions for ``--random-weights``: published configurations without their weights."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mobile.errors import UsageError, did_you_mean
from moe_mobile.model.config import MOST_LAYERS, MOST_TOKENS, JsonObject


@dataclass(frozen=True)
class Preset:
    """A named configuration; ``config`` has the members of the model's ``config.json``."""

    name: str
    description: str
    config: JsonObject


@dataclass(frozen=True)
class RandomWeights:
    """A source of ``export_bundle``: a preset's dimensions with random weights.

    ``layers`` replaces the number of layers; ``seed`` chooses the weights. ``vocab_size`` replaces
    the vocabulary's, if embedding and head are not what is measured: they are most of a model of
    few layers.
    """

    preset: str
    layers: int | None = None
    seed: int = 0
    vocab_size: int | None = None


_OLMOE = {
    "model_type": "olmoe",
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 50279,
}
_QWEN15_MOE = {
    "model_type": "qwen2_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "norm_topk_prob": False,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
}
_QWEN3_30B = {
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
_MIXTRAL_8X7B = {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DEEPSEEK_V2_LITE = {
    "model_type": "qwen2_moe",
    "vocab_size": 102400,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "qkv_bias": False,
    "num_experts": 64,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 2816,
    "mlp_only_layers": [0],
    "norm_topk_prob": False,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
}
# As config.json of LiquidAI/LFM2-8B-A1B has it, with attention in six layers. Lfm2MoeConfig of
# transformers has the same widths as its defaults, but other numbers of layers and no layer_types.
_LFM2_8B = {
    "model_type": "lfm2_moe",
    "vocab_size": 65536,
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "num_hidden_layers": 24,
    "layer_types": [
        "full_attention" if layer in (2, 6, 10, 14, 18, 21) else "conv" for layer in range(24)
    ],
    "conv_L_cache": 3,
    "conv_bias": False,
    "num_dense_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1792,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 7,
}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("OLMoE-1B-7B", "16 layers x 64 experts of 2048x1024, top-8", _OLMOE),
        Preset(
            "Qwen1.5-MoE-A2.7B",
            "24 layers x 60 experts of 2048x1408, top-4, and a shared expert",
            _QWEN15_MOE,
        ),
        Preset("Qwen3-30B-A3B", "48 layers x 128 experts of 2048x768, top-8", _QWEN3_30B),
        Preset("Mixtral-8x7B", "32 layers x 8 experts of 4096x14336, top-2", _MIXTRAL_8X7B),
        Preset(
            "DeepSeek-V2-Lite",
            "26 MoE layers x 64 experts of 2048x1408, top-6, and a shared expert: only the "
            "experts' shape of that model, in a Qwen2-MoE; its latent attention is not supported",
            _DEEPSEEK_V2_LITE,
        ),
        Preset(
            "LFM2-8B-A1B",
            "22 MoE layers x 32 experts of 2048x1792, top-4; convolutions in 18 of 24 layers",
            _LFM2_8B,
        ),
    )
}
"""Presets by name."""


def preset_config(source: RandomWeights) -> JsonObject:
    """The configuration of a preset with its number of layers.

    Raises:
        UsageError: an unknown preset, or a number of layers or tokens out of range.
    """
    by_lower = {name.lower(): preset for name, preset in PRESETS.items()}
    preset = by_lower.get(source.preset.lower())
    if preset is None:
        raise UsageError(
            f"unknown preset {source.preset!r}",
            remedy=did_you_mean(source.preset, PRESETS, f"Known ones: {', '.join(PRESETS)}"),
        )
    config = dict(preset.config)
    if source.layers is not None:
        _require("layers", source.layers, MOST_LAYERS)
        config["num_hidden_layers"] = source.layers
        if config.get("mlp_only_layers") and source.layers == 1:
            config["mlp_only_layers"] = []
        if "layer_types" in config:
            _fit_layer_types(config, source.layers)
    if source.vocab_size is not None:
        _require("vocab_size", source.vocab_size, MOST_TOKENS)
        config["vocab_size"] = source.vocab_size
        for special in ("bos_token_id", "eos_token_id"):
            config[special] = None
    return config


def _require(setting: str, number: int, most: int) -> None:
    if not 1 <= number <= most:
        raise UsageError(
            f"{number} is not a number from 1 to {most}", setting=setting, remedy="Correct it"
        )


def _fit_layer_types(config: JsonObject, layers: int) -> None:
    """Keeps the pattern of mixers; at least one layer has attention, and one has experts."""
    types = (config["layer_types"] * layers)[:layers]
    if "full_attention" not in types:
        types[-1] = "full_attention"
    config["layer_types"] = types
    config["num_dense_layers"] = min(config["num_dense_layers"], layers - 1)
