# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle's chat template sees the special tokens that transformers shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from moe_mobile.model.class_tokens import with_class_tokens
from moe_mobile.model.own_tokenizer import own_tokenizer
from moe_mobile.model.source import open_model
from moe_mobile.text.template_files import load_chat_template
from tests.files import contents
from tests.text.published import KINDS, write_bundle_texts, write_checkpoint_texts
from tests.tokenizers import add_members

USER = {"role": "user", "content": "Hi"}
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
WRITTEN = "|".join(
    f"{{{{ {name} if {name} is defined else 'no {name}' }}}}"
    for name in (*ROLES, "turn_token", "image", "eot_token")
)
CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
MODELS = {"Qwen3": "qwen3_moe", "OLMoE-Instruct": "olmoe", "Mixtral-8x22B-Instruct": "mixtral"}
TOKENS = {
    "Qwen3": "<|im_start|>",
    "OLMoE-Instruct": "<|padding|>",
    "Mixtral-8x22B-Instruct": "[INST]",
    "LFM2": "<|im_start|>",
}
NO_DECODER = ("added_tokens_decoder",)
# Files with their members, where X is a token, and members that the configuration lacks.
CHANGES: dict[str, tuple[dict[str, dict[str, Any]], tuple[str, ...]]] = {
    "none": ({}, ()),
    "roles of the class": ({}, ROLES),
    "no class": ({}, (*ROLES, "added_tokens_decoder", "tokenizer_class")),
    "no role": ({CONFIG: {"eos_token": None, "unk_token": None}}, ()),
    "a name": ({CONFIG: {"eot_token": "X"}}, ()),
    "a name's object": (
        {CONFIG: {"eot_token": {"__type": "AddedToken", "content": "X", "special": True}}},
        (),
    ),
    "names": ({CONFIG: {"extra_special_tokens": {"turn_token": "X", "image": "X"}}}, ()),
    "a role again": ({CONFIG: {"extra_special_tokens": {"eos_token": "X"}}}, ()),
    "older names": (
        {CONFIG: {"additional_special_tokens": {"turn_token": "X"}}},
        ("additional_special_tokens", "extra_special_tokens"),
    ),
    "a map beside the decoder": ({SPECIAL: {"eos_token": "X", "eot_token": "X"}}, ()),
    "a broken map beside the decoder": ({SPECIAL: {"eos_token": {"content": 3}}}, ()),
    "a map": ({SPECIAL: {"eos_token": {"content": "X"}, "eot_token": "X"}}, NO_DECODER),
    "a map of names": (
        {SPECIAL: {"extra_special_tokens": {"turn_token": "X"}}},
        (*NO_DECODER, "additional_special_tokens", "extra_special_tokens"),
    ),
    "a map and a name": (
        {CONFIG: {"eot_token": "X", "eos_token": "X"}, SPECIAL: {"eot_token": "</s>"}},
        NO_DECODER,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", TOKENS)
def test_a_template_sees_the_tokens_of_transformers(name: str, change: str, tmp_path: Path) -> None:
    files = KINDS[name]().files() | {"chat_template.jinja": WRITTEN.encode()}
    changed, lacking = CHANGES[change]
    config = json.loads(files[CONFIG])
    files[CONFIG] = json.dumps({n: v for n, v in config.items() if n not in lacking}).encode()
    model_type = MODELS.get(name, "lfm2_moe")
    folder = write_checkpoint_texts(tmp_path / "checkpoint", files, model_type)
    for file, members in changed.items():
        add_members(folder / file, json.loads(json.dumps(members).replace("X", TOKENS[name])))
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template([USER], tokenize=False)
    files = contents(folder)
    bundle = write_bundle_texts(tmp_path / "bundle", with_class_tokens(files, own_tokenizer(files)))
    assert load_chat_template(bundle).render([USER]) == expected
    assert (TOKENS[name] in expected) or not changed or "beside" in change or change == "no role"


@pytest.mark.parametrize("name", MODELS)
def test_names_that_transformers_saved(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint_texts(tmp_path / "original", KINDS[name]().files(), MODELS[name])
    names = {"turn_token": TOKENS[name]}
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=names)
    tokenizer.chat_template = WRITTEN
    tokenizer.save_pretrained(folder)
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template([USER], tokenize=False)
    files = contents(folder)
    bundle = write_bundle_texts(tmp_path / "bundle", with_class_tokens(files, own_tokenizer(files)))
    assert load_chat_template(bundle).render([USER]) == expected
    assert TOKENS[name] in expected


def test_export_writes_only_what_lacks(demo_copy: Path) -> None:
    folder, file = str(demo_copy), demo_copy / CONFIG
    assert open_model(folder).files[CONFIG] == file.read_bytes()
    file.write_text(json.dumps({"a": 1}))
    end = "<|endoftext|>"
    made = json.loads(open_model(folder).files[CONFIG])
    assert made == {"a": 1, "unk_token": end, "eos_token": end, "pad_token": end}
