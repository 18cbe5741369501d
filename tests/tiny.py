# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny random Hugging Face checkpoints, one per family, written by transformers itself.

All families share the dimensions of experts and head, so that tests can share lowered templates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "lfm2_moe")
VOCAB, HIDDEN, EXPERTS, TOP_K, WIDTH, CONTEXT = 160, 64, 8, 2, 32, 256

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": TOP_K,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_QWEN: dict[str, Any] = {
    "intermediate_size": 96,
    "moe_intermediate_size": WIDTH,
    "num_experts": EXPERTS,
    "decoder_sparse_step": 1,
}
_OWN: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": WIDTH, "num_local_experts": EXPERTS, "sliding_window": 12},
    "qwen2_moe": {**_QWEN, "shared_expert_intermediate_size": 96, "norm_topk_prob": False},
    # Heads wider than hidden_size / num_attention_heads, as in the published models.
    "qwen3_moe": {**_QWEN, "head_dim": 32, "norm_topk_prob": True, "tie_word_embeddings": True},
    "olmoe": {
        "intermediate_size": WIDTH,
        "num_experts": EXPERTS,
        "pad_token_id": 0,
        "clip_qkv": 1.5,
        "norm_topk_prob": False,
    },
    # Layers of each kind, and a dense one.
    "lfm2_moe": {
        "intermediate_size": 96,
        "moe_intermediate_size": WIDTH,
        "num_experts": EXPERTS,
        "num_hidden_layers": 4,
        "layer_types": ["conv", "conv", "full_attention", "conv"],
        "num_dense_layers": 1,
        "norm_eps": 1e-5,
        "routed_scaling_factor": 1.5,
        "tie_word_embeddings": True,
    },
}


def tiny_config(family: str, **changes: Any) -> Any:
    """The family's transformers configuration with tiny dimensions; ``changes`` win."""
    import transformers

    classes = {
        "mixtral": transformers.MixtralConfig,
        "qwen2_moe": transformers.Qwen2MoeConfig,
        "qwen3_moe": transformers.Qwen3MoeConfig,
        "olmoe": transformers.OlmoeConfig,
        "lfm2_moe": transformers.Lfm2MoeConfig,
    }
    options = {**_COMMON, **_OWN[family], **changes}
    if "norm_eps" in options:
        del options["rms_norm_eps"]
    return classes[family](**options)


def tiny_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A float32 model in which every parameter is random, norms and biases included.

    The weights are large enough for outputs to depend on all of them.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes)).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                scale = 1.0 if "embed_tokens" in name else parameter.shape[-1] ** -0.5
                parameter.copy_(noise * scale)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(1.0 + 0.2 * noise)
        for name, buffer in sorted(model.named_buffers()):
            if name.endswith("expert_bias"):  # what only selects
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
    return model


def write_checkpoint(
    folder: Path,
    family: str,
    *,
    dtype: torch.dtype = torch.float32,
    shard_size: str | None = None,
    stacked: bool = False,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Writes a tiny checkpoint into ``folder`` and returns it.

    Args:
        dtype: float32, float16 or bfloat16.
        shard_size: largest file, such as "100KB"; by default everything is in one file.
        stacked: store experts as transformers 5 holds them, in 3-D tensors.
        changes: members of the configuration that differ from the tiny defaults.
    """
    model = tiny_model(family, seed=seed, **changes).to(dtype)
    options: dict[str, Any] = {} if shard_size is None else {"max_shard_size": shard_size}
    model.save_pretrained(folder, save_original_format=not stacked, **options)
    return folder


def load_checkpoint(folder: Path) -> Any:
    """The checkpoint as transformers reads it, float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def tiny_prompt(length: int = 32) -> list[int]:
    """Token ids of a fixed prompt."""
    return [(7 * i * i + 13 * i + 5) % (VOCAB - 3) + 3 for i in range(length)]
