# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer's file gives the ids and texts that transformers' own tokenizer of the checkpoint
gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from moe_mobile.base.special_tokens import CONFIG, DECODER
from moe_mobile.base.tokenizer import TOKENIZER, parse_tokenizer
from moe_mobile.errors import CheckpointError
from moe_mobile.model.added_tokens import require_same_tokens
from moe_mobile.model.own_ids import require_own_ids
from moe_mobile.model.own_tokenizer import own_tokenizer
from moe_mobile.model.source import open_model
from tests.files import contents
from tests.text.published import KINDS, write_checkpoint_texts
from tests.tokenizers import TEMPLATE, add_members, sequence


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


def test_a_class_that_transformers_guesses_is_told(tmp_path: Path) -> None:
    folder = write_checkpoint_texts(tmp_path / "model", KINDS["Qwen3"]().files(), "qwen3_moe")
    (folder / CONFIG).unlink()
    add_members(folder / TOKENIZER, {"normalizer": LOWERCASE})
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())

    def note() -> str | None:
        return require_own_ids(folder, contents(folder), tokenizer, own_tokenizer(contents(folder)))

    assert str(note()).startswith(
        "tokenizer_config.json names no tokenizer_class, and the bundle goes by tokenizer.json "
        "alone. transformers takes Qwen2Tokenizer, by the model's type, and gives the text 'Hello' "
    )
    # Two remedies.
    add_members(folder / CONFIG, {"tokenizer_class": "PreTrainedTokenizerFast"})
    assert note() is None
    assert AutoTokenizer.from_pretrained(folder)("A")["input_ids"] == tokenizer.ids("A")
    (folder / CONFIG).unlink()
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    assert note() is None


def without(content: str) -> Callable[[Path], None]:
    """The decoder lacks a token."""

    def change(folder: Path) -> None:
        decoder = json.loads((folder / CONFIG).read_text())[DECODER]
        left = {id: token for id, token in decoder.items() if token["content"] != content}
        add_members(folder / CONFIG, {DECODER: left})

    return change


def swap_thoughts(folder: Path) -> None:
    decoder = json.loads((folder / CONFIG).read_text())[DECODER]
    ids = [id for id, token in decoder.items() if "think" in token["content"]]
    decoder[ids[0]], decoder[ids[1]] = decoder[ids[1]], decoder[ids[0]]
    add_members(folder / CONFIG, {DECODER: decoder})


def add_own_token(folder: Path) -> None:
    tokens = json.loads((folder / TOKENIZER).read_text())["added_tokens"]
    new = tokens[-1] | {"id": max(token["id"] for token in tokens) + 1, "content": "<mytag>"}
    add_members(folder / TOKENIZER, {"added_tokens": [*tokens, new | {"special": False}]})


def ignore_merges(folder: Path) -> None:
    """For a word that none of them makes."""
    whole = json.loads((folder / TOKENIZER).read_text())
    last = max(token["id"] for token in whole["added_tokens"])
    whole["model"]["vocab"]["\u0120Zanzibar"] = last + 1
    add_members(folder / TOKENIZER, {"model": whole["model"] | {"ignore_merges": True}})


def straighten_quotes(folder: Path) -> None:
    quotes = {"type": "Replace", "pattern": {"String": "\u2019"}, "content": "'"}
    add_members(
        folder / TOKENIZER, {"normalizer": sequence("normalizers", {"type": "NFC"}, quotes)}
    )


UNSEEN: dict[str, tuple[list[str], Callable[[Path], None], str, str]] = {
    "an added token lost": (["Qwen3"], without("<think>"), "<think>", "text '</think>' other ids"),
    "added tokens swapped": (["Qwen3"], swap_thoughts, "<think>", "text '</think>' other ids"),
    "an own token": (
        ["Qwen3", "Qwen1.5-MoE-Chat", "OLMoE-Instruct"],
        add_own_token,
        "<mytag>",
        "text '<mytag>' other ids",
    ),
    "merges ignored": (
        ["Qwen3", "OLMoE-Instruct"],
        ignore_merges,
        "in Zanzibar",
        "another 'ignore_merges' in its model",
    ),
    "characters replaced": (
        ["Qwen3", "OLMoE-Instruct"],
        straighten_quotes,
        "it\u2019s",
        "another normalizer",
    ),
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for name, case in UNSEEN.items() for kind in case[0]]
)
def test_what_common_texts_do_not_show_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    _, change, text, cause = UNSEEN[name]
    model_type = "olmoe" if "OLMoE" in kind else "qwen3_moe"
    folder = write_checkpoint_texts(tmp_path / "model", KINDS[kind]().files(), model_type)
    change(folder)
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    assert require_same_tokens(folder, tokenizer) == set()
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] != tokenizer.ids(text)
    with pytest.raises(CheckpointError, match=re.escape(cause)) as refusal:
        require_own_ids(folder, contents(folder), tokenizer, own_tokenizer(contents(folder)))
    assert refusal.value.file == str(folder / CONFIG)
    # The remedy.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    saved = parse_tokenizer((folder / TOKENIZER).read_bytes())
    require_own_ids(folder, contents(folder), saved, own_tokenizer(contents(folder)))


def test_what_transformers_cannot_load_alone_is_not_compared(demo_copy: Path) -> None:
    """Its own code would be needed, which is not run."""
    code = {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    add_members(demo_copy / "tokenizer_config.json", code | {"tokenizer_class": "OwnTokenizer"})
    (demo_copy / "own.py").write_text("raise SystemExit\n")
    assert TOKENIZER in open_model(str(demo_copy)).files
