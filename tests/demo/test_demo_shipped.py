# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The shipped checkpoint: size, format, and the figures of its card."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from benchmarks.demo_training import checkpoint
from benchmarks.demo_training.evaluate import perplexity_and_usage
from benchmarks.demo_training.results import sample_ids
from moe_mobile.demo import checkpoint_dir, heldout_text

CARD = (checkpoint_dir() / "README.md").read_text("utf-8")
CONFIG = json.loads((checkpoint_dir() / "config.json").read_text("utf-8"))


def table(section: str, rows: int) -> list[list[str]]:
    """Cells of the first ``rows`` rows of the first table of a section of the card."""
    text = CARD.split(f"\n## {section}\n", 1)[1]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2 : 2 + rows]]


def test_files_and_size() -> None:
    files = {path.name: path.stat().st_size for path in checkpoint_dir().iterdir()}
    assert set(files) == {
        "README.md",
        "config.json",
        "heldout.txt",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= 24_000_000
    assert 50_000 <= files["heldout.txt"] <= 70_000


def test_config() -> None:
    assert CONFIG["architectures"] == ["Qwen3MoeForCausalLM"]
    assert CONFIG["tie_word_embeddings"] is True
    assert CONFIG["max_position_embeddings"] == 1024
    assert CONFIG["num_hidden_layers"] == 6
    assert CONFIG["num_experts"] == 32
    assert CONFIG["num_experts_per_tok"] == 4
    assert CONFIG["num_key_value_heads"] < CONFIG["num_attention_heads"]


def test_weights_are_bf16_under_the_names_of_the_hub() -> None:
    with safe_open(checkpoint_dir() / "model.safetensors", "pt") as file:
        names = set(file.keys())
        sizes = {name: file.get_slice(name).get_shape() for name in names}
        types = {file.get_slice(name).get_dtype() for name in names}
    assert types == {"BF16"}
    assert "lm_head.weight" not in names
    assert sizes["model.layers.5.mlp.experts.31.gate_proj.weight"] == [64, 192]
    assert sizes["model.layers.0.mlp.experts.0.down_proj.weight"] == [192, 64]
    total = sum(int(torch.Size(size).numel()) for size in sizes.values())
    assert 8_000_000 <= total <= 11_000_000


def test_tokenizer_is_lossless() -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"]
    assert tokenizer.token_to_id("<|endoftext|>") == CONFIG["bos_token_id"] == 0
    text = heldout_text() + "\n\tdéjà vu \u4f60\u597d \U0001f600"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_loads_in_transformers_and_agrees() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint_dir())
    model, info = transformers.Qwen3MoeForCausalLM.from_pretrained(
        checkpoint_dir(), dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    ids = tokenizer(heldout_text()[:3000], return_tensors="pt").input_ids[:, :512]
    with torch.no_grad():
        theirs = model.eval()(ids).logits
        mine = checkpoint.load_exported(checkpoint_dir()).logits(ids)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_heldout_perplexity_and_usage_are_as_on_the_card() -> None:
    stated = re.search(r"`heldout.txt`.*perplexity ([0-9.]+) in windows", CARD, re.DOTALL)
    assert stated is not None
    ids = sample_ids(heldout_text(), checkpoint_dir() / "tokenizer.json")
    model = checkpoint.load_exported(checkpoint_dir())
    perplexity, usage = perplexity_and_usage(model, ids, CONFIG["max_position_embeddings"])
    assert perplexity == pytest.approx(float(stated[1]), rel=2e-3)
    assert usage.min() > 0


def test_card_states_that_the_bar_is_reached() -> None:
    quality = table("Held-out perplexity", 6)
    assert [row[0] for row in quality] == [
        "bible",
        "novels",
        "python",
        "man",
        "perl",
        "dictionary",
    ]
    for _, tokens, perplexity, trigram, ratio in quality:
        assert int(tokens.replace(",", "")) >= 30_000
        assert float(ratio) == pytest.approx(float(perplexity) / float(trigram), abs=1e-3)
        assert float(ratio) <= 0.7
    usage = table("Expert usage", CONFIG["num_hidden_layers"])
    assert all(float(least) >= 0.1 for _, least, *_ in usage)
