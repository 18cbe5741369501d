# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files: training state, and checkpoints under the names of transformers' Qwen3-MoE."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.demo_training.model import DemoModel
from benchmarks.demo_training.settings import Shape
from benchmarks.demo_training.tokenizer import END_OF_TEXT

_LAYER_NAMES = {
    "self_attn.q_proj": "wq",
    "self_attn.k_proj": "wk",
    "self_attn.v_proj": "wv",
    "self_attn.o_proj": "wo",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "moe_norm",
    "mlp.gate": "router",
}


def durable_replace(partial: pathlib.Path, final: pathlib.Path) -> None:
    """Flush ``partial`` to disk and give it its final name in one step."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(final)


def save_state(path: pathlib.Path, state: dict[str, Any]) -> None:
    """Write a training state durably; a kill at any point leaves the old or the new one."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    durable_replace(partial, path)


def load_state(path: pathlib.Path) -> dict[str, Any]:
    """Read a training state written by :func:`save_state` (tensors on the CPU)."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def hub_weights(model: DemoModel) -> dict[str, Tensor]:
    """Weights under Hugging Face names, linear layers as ``[out, in]``; no ``lm_head`` (tied)."""
    weights: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.final_norm,
    }
    width = model.shape.expert_width
    for layer in range(model.shape.layers):
        prefix = f"model.layers.{layer}."
        for name, attribute in _LAYER_NAMES.items():
            weights[f"{prefix}{name}.weight"] = getattr(model, attribute)[layer]
        for expert in range(model.shape.experts):
            start = f"{prefix}mlp.experts.{expert}."
            gate_up = model.gate_up[layer, expert]
            weights[start + "gate_proj.weight"] = gate_up[:, :width].t()
            weights[start + "up_proj.weight"] = gate_up[:, width:].t()
            weights[start + "down_proj.weight"] = model.down[layer, expert].t()
    return {name: weight.detach() for name, weight in weights.items()}


def hub_config(shape: Shape, balance: float) -> dict[str, Any]:
    """``config.json`` of the model (keys of transformers' Qwen3MoeConfig)."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.active * shape.expert_width,
        "moe_intermediate_size": shape.expert_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.active,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_base},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": shape.layers,
        "tie_word_embeddings": True,
        "router_aux_loss_coef": balance,
        "output_router_logits": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "initializer_range": 0.02,
    }


def shape_of(config: dict[str, Any]) -> Shape:
    """Inverse of :func:`hub_config`."""
    return Shape(
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        experts=config["num_experts"],
        active=config["num_experts_per_tok"],
        expert_width=config["moe_intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_width=config["head_dim"],
        context=config["max_position_embeddings"],
        epsilon=config["rms_norm_eps"],
        rope_base=config["rope_theta"],
    )


def export(
    model: DemoModel, folder: pathlib.Path, balance: float, tokenizer: pathlib.Path | None
) -> None:
    """Write a bf16 checkpoint folder; ``tokenizer`` is a ``tokenizer.json`` to put next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: weight.to("cpu", torch.bfloat16).contiguous()
        for name, weight in hub_weights(model).items()
    }
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    durable_replace(partial, folder / "model.safetensors")
    config = hub_config(model.shape, balance)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    if tokenizer is not None:
        (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.shape.context,
        }
        text = json.dumps(settings, indent=2) + "\n"
        (folder / "tokenizer_config.json").write_text(text, "utf-8")


def load_exported(folder: pathlib.Path) -> DemoModel:
    """The model of a checkpoint folder, its bf16 weights widened to fp32."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    model = DemoModel(shape_of(config))
    weights = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, place in hub_weights(model).items():
            place.copy_(weights.pop(name))
    if weights:
        raise ValueError(f"unexpected weights: {sorted(weights)[:3]}")
    return model
