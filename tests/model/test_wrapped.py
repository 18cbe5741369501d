# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights that were saved from inside an adapter, a wrapper or a larger model are named so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe_mobile.errors import CheckpointError, UnsupportedError
from moe_mobile.model.source import open_model
from tests.tiny import write_checkpoint

Tensors = dict[str, torch.Tensor]
QUERY = re.compile(r"(.*q_proj)\.weight")


def before_all(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def before_modules(part: str) -> Callable[[Tensors], Tensors]:
    """As FSDP and checkpointing wrap each layer."""
    return lambda tensors: {
        re.sub(r"(layers\.\d+\.)", rf"\1{part}", name): tensor for name, tensor in tensors.items()
    }


def unmerged(prefix: str = "") -> Callable[[Tensors], Tensors]:
    """As peft wraps linear layers."""

    def wrap(tensors: Tensors) -> Tensors:
        made: Tensors = {}
        for name, tensor in tensors.items():
            if match := QUERY.fullmatch(name):
                module = prefix + match[1]
                made[f"{module}.base_layer.weight"] = tensor
                made[f"{module}.lora_A.default.weight"] = torch.ones(4, tensor.shape[1])
                made[f"{module}.lora_B.default.weight"] = torch.ones(tensor.shape[0], 4)
            else:
                made[prefix + name] = tensor
        return made

    return wrap


def trained_beside(tensors: Tensors) -> Tensors:
    """What peft makes of a module in modules_to_save."""
    head = tensors.pop("lm_head.weight")
    names = ("lm_head.original_module.weight", "lm_head.modules_to_save.default.weight")
    return tensors | {name: head.clone() for name in names}


def with_vision(tensors: Tensors) -> Tensors:
    named = {re.sub("^model.", "model.language_model.", name): t for name, t in tensors.items()}
    return named | {"model.visual.patch_embed.weight": torch.ones(2)}


ADAPTER, WRAPPER, PART = (
    "an adapter (LoRA)",
    "the wrapper of a training",
    "a model of several parts",
)
WRAPPED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "adapter": (unmerged(), ADAPTER),
    "adapter, all of it": (unmerged("base_model.model."), ADAPTER),
    "a module trained beside": (trained_beside, ADAPTER),
    "FSDP": (before_all("_fsdp_wrapped_module."), WRAPPER),
    "FSDP, each layer": (before_modules("_fsdp_wrapped_module."), WRAPPER),
    "checkpointing": (before_modules("_checkpoint_wrapped_module."), WRAPPER),
    "compiled": (before_all("_orig_mod."), WRAPPER),
    "DDP, compiled": (before_all("module._orig_mod."), WRAPPER),
    "DDP": (before_all("module."), WRAPPER),
    "vision": (with_vision, PART),
    "vision, older": (before_all("language_model."), PART),
}


@pytest.mark.parametrize("stacked", [False, True], ids=["experts", "stacked"])
@pytest.mark.parametrize("name", WRAPPED)
def test_weights_saved_from_inside_something(name: str, stacked: bool, tmp_path: Path) -> None:
    wrap, told = WRAPPED[name]
    # A family with a head of its own.
    folder = write_checkpoint(tmp_path / "model", "qwen2_moe", stacked=stacked)
    save_file(wrap(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    with pytest.raises(UnsupportedError, match=re.escape(f"from inside {told}")) as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(folder)
    assert "again" not in str(refusal.value.remedy)


def test_a_tensor_that_is_truly_missing(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen2_moe")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.visual.norm.weight"] = torch.ones(2)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight is missing"):
        open_model(str(folder))


def test_what_an_adapter_left_beside_the_whole_model(tmp_path: Path) -> None:
    """transformers leaves it out."""
    folder = write_checkpoint(tmp_path / "model", "qwen2_moe")
    tensors = load_file(folder / "model.safetensors")
    left = "model.layers.0.self_attn.q_proj.base_layer.weight"
    tensors[left] = tensors["model.layers.0.self_attn.q_proj.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert open_model(str(folder)).unused() == [left]
