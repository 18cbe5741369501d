# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer's file gives the ids and texts that transformers' own tokenizer of the checkpoint
gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from moe_mobile.base.tokenizer import TOKENIZER, parse_tokenizer
from moe_mobile.errors import CheckpointError
from moe_mobile.model.added_tokens import require_same_tokens
from moe_mobile.model.own_ids import require_own_ids
from moe_mobile.model.own_tokenizer import own_tokenizer
from moe_mobile.model.source import open_model
from tests.files import contents
from tests.text.published import KINDS, write_checkpoint_texts
from tests.tokenizers import TEMPLATE, add_members


@pytest.mark.parametrize("name", KINDS)
def test_published_tokenizers_are_accepted(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]()
    model_type = "mixtral" if "Mixtral" in name else "olmoe" if "OLMoE" in name else "qwen3_moe"
    folder = write_checkpoint_texts(tmp_path / "model", kind.files(), model_type)
    # transformers 4 wrote it too.
    roles = {role: kind.config[role] for role in ("bos_token", "eos_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    assert require_same_tokens(folder, tokenizer) == set()
    require_own_ids(folder, contents(folder), tokenizer, own_tokenizer(contents(folder)))


LOWERCASE = {"type": "Lowercase"}
SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
OTHERS: dict[str, tuple[str, dict[str, dict[str, Any]], str]] = {
    # add_bos_token is false.
    "a token": (
        "OLMoE-Instruct",
        {TOKENIZER: {"post_processor": TEMPLATE}},
        "tokenizer_config.json",
    ),
    "a space": (
        "Qwen3",
        {"tokenizer_config.json": {"add_prefix_space": True}},
        "tokenizer_config.json",
    ),
    "a normalizer": ("Qwen3", {TOKENIZER: {"normalizer": LOWERCASE}}, "tokenizer_config.json"),
    "words": ("Qwen3", {TOKENIZER: {"pre_tokenizer": SPLIT}}, "tokenizer_config.json"),
    "a class": (
        "Qwen3",
        {
            TOKENIZER: {"normalizer": LOWERCASE},
            "tokenizer_config.json": {"tokenizer_class": None},
            "config.json": {"tokenizer_class": "Qwen2Tokenizer"},
        },
        "config.json",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_that_transformers_builds_otherwise_is_refused(
    name: str, tmp_path: Path
) -> None:
    kind, changes, file = OTHERS[name]
    model_type = "olmoe" if "OLMoE" in kind else "qwen3_moe"
    folder = write_checkpoint_texts(tmp_path / "model", KINDS[kind]().files(), model_type)
    for changed, members in changes.items():
        add_members(folder / changed, members)
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    with pytest.raises(CheckpointError, match=r"gives the text '.*other ids than") as refusal:
        require_own_ids(folder, contents(folder), tokenizer, own_tokenizer(contents(folder)))
    assert refusal.value.file == str(folder / file)
    # The remedy.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    saved = parse_tokenizer((folder / TOKENIZER).read_bytes())
    require_own_ids(folder, contents(folder), saved, own_tokenizer(contents(folder)))


@pytest.mark.parametrize(
    "decoder", [None, {"type": "WordPiece", "prefix": "##", "cleanup": True}], ids=["none", "words"]
)
@pytest.mark.parametrize("kind", ["Qwen1.5-MoE-Chat", "Qwen3", "OLMoE-Instruct"])
def test_ids_that_transformers_decodes_otherwise_are_refused(
    kind: str, decoder: dict[str, Any] | None, tmp_path: Path
) -> None:
    model_type = "olmoe" if "OLMoE" in kind else "qwen3_moe"
    folder = write_checkpoint_texts(tmp_path / "model", KINDS[kind]().files(), model_type)
    add_members(folder / TOKENIZER, {"decoder": decoder})
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    with pytest.raises(CheckpointError, match=r"another text of the ids .*'Hello' inst") as refusal:
        require_own_ids(folder, contents(folder), tokenizer, own_tokenizer(contents(folder)))
    assert refusal.value.file == str(folder / "tokenizer_config.json")
    # The remedy.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    saved = parse_tokenizer((folder / TOKENIZER).read_bytes())
    require_own_ids(folder, contents(folder), saved, own_tokenizer(contents(folder)))


def test_without_a_named_class_the_rules_of_the_file_are_those(tmp_path: Path) -> None:
    """transformers would guess a class by the model's type."""
    folder = write_checkpoint_texts(tmp_path / "model", KINDS["Qwen3"]().files(), "qwen3_moe")
    (folder / "tokenizer_config.json").unlink()
    add_members(folder / TOKENIZER, {"normalizer": LOWERCASE})
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    require_own_ids(folder, contents(folder), tokenizer, own_tokenizer(contents(folder)))
    assert AutoTokenizer.from_pretrained(folder)("A")["input_ids"] != tokenizer.ids("A")


def test_what_transformers_cannot_load_alone_is_not_compared(demo_copy: Path) -> None:
    """Its own code would be needed, which is not run."""
    code = {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    add_members(demo_copy / "tokenizer_config.json", code | {"tokenizer_class": "OwnTokenizer"})
    (demo_copy / "own.py").write_text("raise SystemExit\n")
    assert TOKENIZER in open_model(str(demo_copy)).files
