# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is what transformers loads from its folder, or it is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from moe_mobile.errors import CheckpointError, MoeMobileError, UnsupportedError
from moe_mobile.model.safetensors import INDEX_FILE, SINGLE_FILE
from moe_mobile.model.source import open_model
from tests.tiny import write_checkpoint


def _changed(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _head(folder: Path) -> torch.Tensor:
    model = open_model(str(folder))
    return model.store.read(model.tensors.head()["linear.weight"])


def _loaded_head(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weight: torch.Tensor = model.lm_head.weight.detach()
    return weight


def test_a_stored_head_counts_although_the_config_ties_it(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tied", "qwen3_moe", tie_word_embeddings=False)
    _changed(folder, tie_word_embeddings=True)
    assert torch.equal(_head(folder), _loaded_head(folder))
    model = open_model(str(folder))
    embedding = model.store.read(model.tensors.embedding())
    assert not torch.equal(_head(folder), embedding)
    # Without a stored one, the embedding is the head.
    tensors = load_file(folder / SINGLE_FILE)
    del tensors["lm_head.weight"]
    save_file(tensors, folder / SINGLE_FILE, {"format": "pt"})
    assert torch.equal(_head(folder), embedding)
    assert torch.equal(_loaded_head(folder), embedding)


def test_a_single_file_counts_although_there_is_an_index(tmp_path: Path) -> None:
    new = write_checkpoint(tmp_path / "new", "mixtral")
    old = write_checkpoint(tmp_path / "old", "mixtral")
    tensors = load_file(old / SINGLE_FILE)
    stale = {name: 2 * value for name, value in tensors.items()}
    save_file(stale, old / "model-00001-of-00001.safetensors", {"format": "pt"})
    index = {"weight_map": dict.fromkeys(stale, "model-00001-of-00001.safetensors")}
    (old / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(new / SINGLE_FILE, old / SINGLE_FILE)
    assert torch.equal(_head(old), _loaded_head(old))
    assert torch.equal(_head(old), _head(new))


@pytest.mark.parametrize(
    "changes",
    [
        {"unsloth_version": "2024.9", "unsloth_fixed": True},
        {"do_sample": True, "temperature": 0.7, "max_length": 4096},
        {"torchscript": False, "is_decoder": True, "pruned_heads": {}},
        {"quantization_config": None, "some_new_option": 0, "another": [], "third": ""},
        {"layer_types": ["full_attention"] * 2},
        {"attn_implementation": "eager", "_commit_hash": "abc", "output_past": True},
        {"auto_map": {"AutoModelForCausalLM": "modeling_custom.Custom"}},
        {"peft_version": "0.17.0", "trl_version": "0.20.0", "library_name": "peft"},
        {"mergekit": {"merge_method": "ties"}, "mergekit_version": "0.1"},
        {"resid_pdrop": 0.1, "hidden_dropout": 0.1, "aux_loss_alpha": 0.001},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_members_that_change_nothing_are_accepted(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    before = open_model(str(folder)).architecture
    _changed(folder, **changes)
    assert open_model(str(folder)).architecture == before


MLX = {"bits": 4, "group_size": 64, "mode": "affine", "model.layers.0.mlp.gate": {"bits": 8}}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"use_qk_norm": False, "qkv_clip": 8.0}, "unknown option 'qkv_clip'"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "unknown option 'layer_types'"),
        ({"pruned_heads": {"0": [1]}}, "unknown option 'pruned_heads'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "already quantized with fp8"),
        ({"quantization": MLX}, "already quantized with MLX (quantization)"),
        # mlx-lm writes both.
        ({"quantization_config": MLX, "quantization": MLX}, "already quantized with MLX"),
        ({"quantization_config": MLX}, "already quantized with MLX"),
        ({"quantization_config": {"bits": 4, "group_size": 64, "sym": True}}, "quantized (q"),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
            "already quantized with modelopt NVFP4",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_members_that_change_something_are_refused(
    changes: dict[str, Any], cause: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    _changed(folder, **changes)
    with pytest.raises(UnsupportedError) as refusal:
        open_model(str(folder))
    assert cause in refusal.value.cause


def _stop_token(folder: Path) -> Path:
    path = folder / "generation_config.json"
    path.write_text('{"eos_token_id": [2, 999]}')
    return path


def _byte_order_mark(folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(path.read_text(), "utf-8-sig")
    return path


def _wide_characters(folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(path.read_text(), "utf-16")
    return path


def _base_in_quotes(folder: Path) -> Path:
    parameters = {"rope_type": "default", "rope_theta": "10000"}
    _changed(folder, rope_parameters=parameters)
    return folder / "config.json"


def _adapter(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    return folder / "adapter_config.json"


def _adapter_alone(folder: Path) -> Path:
    (folder / "config.json").unlink()
    return _adapter(folder)


def _llama_cpp(folder: Path) -> Path:
    (folder / SINGLE_FILE).rename(folder / "model.gguf")
    return folder


def _pickled(folder: Path) -> Path:
    (folder / SINGLE_FILE).rename(folder / "pytorch_model.bin")
    return folder


def _llama_cpp_alone(folder: Path) -> Path:
    (folder / "config.json").unlink()
    (folder / SINGLE_FILE).rename(folder / "model-Q4_K_M.gguf")
    return folder / "model-Q4_K_M.gguf"


def _without_index(folder: Path) -> Path:
    (folder / SINGLE_FILE).rename(folder / "model-00001-of-00002.safetensors")
    return folder


def _gptq_file(folder: Path) -> Path:
    (folder / SINGLE_FILE).rename(folder / "gptq_model-4bit-128g.safetensors")
    (folder / "quantize_config.json").write_text('{"bits": 4}')
    return folder


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (_stop_token, CheckpointError, "eos_token_id must be"),
        (_byte_order_mark, CheckpointError, "not valid JSON"),
        (_wide_characters, CheckpointError, "not valid JSON"),
        (_base_in_quotes, CheckpointError, "rope_theta must be a number, not '10000'"),
        (_adapter, UnsupportedError, "merge_and_unload"),
        (_adapter_alone, UnsupportedError, "merge_and_unload"),
        (_llama_cpp, CheckpointError, "GGUF files are quantized for llama.cpp"),
        (_llama_cpp_alone, UnsupportedError, "quantized for llama.cpp"),
        (_without_index, CheckpointError, f"the index file {INDEX_FILE} is missing"),
        (_gptq_file, UnsupportedError, "quantized with GPTQ (quantize_config.json)"),
        (_pickled, CheckpointError, "save_pretrained writes safetensors"),
    ],
)
def test_errors_name_the_file_and_the_way_out(
    change: Callable[[Path], Path], kind: type[MoeMobileError], said: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    file = change(folder)
    with pytest.raises(kind) as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(file)
    assert said in str(refusal.value)


@pytest.mark.parametrize("value", ['"</s>"', '"2"', "[2, null]", "2.0", "true", "[[2]]"])
def test_stop_tokens_that_are_none_name_their_file(value: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    file = folder / "generation_config.json"
    file.write_text(f'{{"eos_token_id": {value}}}')
    with pytest.raises(CheckpointError) as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(file)
    assert refusal.value.cause.endswith(f"up to 16 token ids below 160, not {value}")
    assert refusal.value.remedy


PROJECTION = "model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


def _packed_by(*ends: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[PROJECTION + ".weight"] = torch.zeros(8, 1, dtype=torch.uint8)
        if ".qweight" in ends:
            del tensors[PROJECTION + ".weight"]
        tensors.update({PROJECTION + end: torch.zeros(4) for end in ends})

    return change


def _replaced_by(*ends: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[PROJECTION + ".weight"]
        tensors.update({PROJECTION + end: torch.zeros(4) for end in ends})

    return change


def _stacked_in_mxfp4(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".experts." in name]:
        del tensors[name]
    for stack in ("gate_up_proj", "down_proj"):
        for end in ("blocks", "scales"):
            name = f"model.layers.0.mlp.experts.{stack}_{end}"
            tensors[name] = torch.zeros(8, 4, dtype=torch.uint8)


def _stacked_by_mlx(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".experts.0." in name]:
        del tensors[name]
        tensors[name.replace("experts.0", "switch_mlp")] = torch.zeros(8, 4)


def _stored_as(dtype: torch.dtype) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[PROJECTION + ".weight"] = tensors[PROJECTION + ".weight"].to(dtype)

    return change


@pytest.mark.parametrize(
    ("change", "file", "cause"),
    [
        (_packed_by(".qweight", ".qzeros", ".scales"), None, "with GPTQ or AWQ"),
        (_packed_by(".qweight", ".qzeros"), "quantize_config.json", "with GPTQ:"),
        (_packed_by(".qweight", ".qzeros"), "quant_config.json", "with AWQ:"),
        (_packed_by(".weight.absmax"), None, "with bitsandbytes"),
        (_packed_by(".weight.quant_state.bitsandbytes__nf4"), None, "with bitsandbytes"),
        (_packed_by(".weight_scale"), None, "with FP8 or"),
        (_packed_by(".weight_scale_inv"), None, "with FP8 or"),
        (_packed_by(".weight_scale"), "hf_quant_config.json", "with ModelOpt FP8:"),
        (_packed_by(".weight_scale", ".weight_scale_2"), None, "with ModelOpt NVFP4:"),
        (_packed_by(".scales", ".biases"), None, "with MLX:"),
        (_packed_by(".scales"), None, "with MLX or"),
        (_packed_by(".codes", ".codebooks", ".scales"), None, "with AQLM:"),
        (_replaced_by(".W_q", ".zero", ".scale"), None, "with HQQ:"),
        (_replaced_by(".weight._data", ".weight._scale", ".input_scale"), None, "with quanto:"),
        (_replaced_by("._weight_qdata", "._weight_scale"), None, "with torchao:"),
        (_replaced_by(".weight:qdata", ".weight:scale"), None, "with torchao:"),
        (_replaced_by(".indices", ".centroids.weight", ".weight_scale"), None, "with VPTQ:"),
        (_packed_by(".weight_scales"), None, "with EETQ:"),
        (_replaced_by(".dense_weights", ".row_offsets", ".col_vals"), None, "with SpQR:"),
        (_stacked_in_mxfp4, None, "with MXFP4: it has the tensor model.layers.0.mlp.experts.down"),
        (_stacked_by_mlx, None, "was converted for MLX: it has the tensor model.layers.0.mlp.sw"),
        (_stored_as(torch.float8_e4m3fn), None, "F8_E4M3: the checkpoint is already quantized"),
        (_stored_as(torch.int8), None, "I8: the checkpoint is already quantized"),
        (_stored_as(torch.float64), None, "is stored as F64"),
    ],
)
def test_quantized_tensors_are_named_before_any_work(
    change: Callable[[Tensors], None], file: str | None, cause: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE, {"format": "pt"})
    if file:
        (folder / file).write_text('{"quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(UnsupportedError) as refusal:
        open_model(str(folder))
    assert cause in refusal.value.cause
    assert refusal.value.remedy


EXPERT = "model.layers.0.mlp.experts.0.down_proj.weight"


EMBEDDING = "model.embed_tokens.weight"
OLD_EXPERT = "model.layers.0.block_sparse_moe.experts.0.w2.weight"


@pytest.mark.parametrize(
    ("name", "like", "cause"),
    [
        ("embed_tokens.weight", EMBEDDING, f"another name for {EMBEDDING}, which is there too"),
        # Of the head, which is tied.
        ("model.lm_head.weight", EMBEDDING, "another name for lm_head.weight:"),
        ("model_lm_head.weight", EMBEDDING, "another name for lm_head.weight:"),
        (EXPERT.removeprefix("model."), EXPERT, f"another name for {EXPERT}, which"),
        (EXPERT.replace(".0.down", ".8.down"), EXPERT, "config.json does not have"),
        (EXPERT[6:].replace(".0.down", ".8.down"), EXPERT, "config.json does not have"),
        (EXPERT.replace(".0.down", ".x.down"), EXPERT, "config.json does not have"),
        ("model.layers.0.mlp.experts.down_proj", EXPERT, "stored twice"),
        (OLD_EXPERT.replace("block_sparse_moe", "mlp"), OLD_EXPERT, "another name for"),
        (OLD_EXPERT.replace("block_sparse_moe.experts.0", "mlp.experts.8"), OLD_EXPERT, "expert"),
    ],
)
def test_tensors_that_transformers_would_use_are_refused(
    name: str, like: str, cause: str, tmp_path: Path
) -> None:
    family = "mixtral" if like == OLD_EXPERT else "qwen3_moe"
    folder = write_checkpoint(tmp_path / "model", family)
    path = folder / SINGLE_FILE
    tensors, loaded = load_file(path), _loaded_weights(folder)
    extra = 2 * tensors[like]
    if name.endswith("experts.down_proj"):
        extra = extra.repeat(8, 1, 1)
    save_file({**tensors, name: extra}, path, {"format": "pt"})
    with contextlib.suppress(RuntimeError, AttributeError):  # transformers fails
        assert not torch.equal(_loaded_weights(folder), loaded)
    with pytest.raises(CheckpointError) as refusal:
        open_model(str(folder))
    assert refusal.value.cause.startswith(f"tensor {name} is ")
    assert cause in refusal.value.cause
    assert refusal.value.file == str(folder)
    # Of layers beyond the model's, transformers takes none.
    other = {**load_file(path), "model.layers.9" + EXPERT.removeprefix("model.layers.0"): extra}
    del other[name]
    save_file(other, path, {"format": "pt"})
    assert len(open_model(str(folder)).unused()) == 1


def test_tensors_by_other_names_alone_are_said_to_be_that(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    tensors, loaded = load_file(folder / SINGLE_FILE), _loaded_weights(folder)
    # As a model without its head is saved.
    other = {name.removeprefix("model."): value for name, value in tensors.items()}
    save_file(other, folder / SINGLE_FILE, {"format": "pt"})
    assert torch.equal(_loaded_weights(folder), loaded)
    with pytest.raises(CheckpointError, match=f"embed_tokens.weight is .* {EMBEDDING}:") as refusal:
        open_model(str(folder))
    assert "save_pretrained" in (refusal.value.remedy or "")


def _loaded_weights(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", INDEX_FILE, SINGLE_FILE, "a"])
def test_pointers_of_git_lfs_are_named(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    if name in (INDEX_FILE, "a"):
        (folder / SINGLE_FILE).unlink()
        (folder / INDEX_FILE).write_text('{"weight_map": {"x": "a"}}')
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"
    (folder / name).write_text(pointer)
    with pytest.raises(CheckpointError, match="a Git LFS pointer") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(folder / name)
    assert "git lfs pull" in (refusal.value.remedy or "")


def test_a_gguf_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UnsupportedError, match=r"llama\.cpp") as refusal:
        open_model(str(path))
    assert refusal.value.file == str(path)


def test_tensors_that_nobody_uses_are_listed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe")
    assert open_model(str(folder)).unused() == []
    more = ("model.visual.blocks.0.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    tensors = load_file(folder / SINGLE_FILE) | dict.fromkeys(more, torch.ones(2))
    save_file({n: t.clone() for n, t in tensors.items()}, folder / SINGLE_FILE, {"format": "pt"})
    assert open_model(str(folder)).unused() == [more[0]]
