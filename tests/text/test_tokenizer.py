# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers take texts as they are, and know no token that the model lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from moe_mobile.base import limits
from moe_mobile.base.tokenizer import TOKENIZER, TextTokenizer, parse_tokenizer
from moe_mobile.demo import checkpoint_dir
from moe_mobile.errors import BundleInvalidError, CheckpointError, UnsupportedError
from moe_mobile.model.source import open_model
from moe_mobile.quality.subject import CheckpointSubject

TEXT = "And the LORD spake unto Moses, saying, Speak unto the children of Israel"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo's checkpoint, to be changed."""
    shutil.copytree(checkpoint_dir(), tmp_path / "demo")
    return tmp_path / "demo"


def test_truncation_and_padding_left_from_training_do_not_apply(folder: Path) -> None:
    path = folder / TOKENIZER
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path))
    expected = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    assert len(expected) > 4
    assert parse_tokenizer(path.read_bytes()).encode(TEXT).ids == expected


def test_a_token_beyond_the_embedding_is_found_before_an_export(folder: Path) -> None:
    path = folder / TOKENIZER
    tokenizer = Tokenizer.from_file(str(path))
    rows = open_model(str(folder)).architecture.vocab_size
    tokenizer.add_tokens([f"<more-{index}>" for index in range(rows)])
    tokenizer.save(str(path))
    with pytest.raises(CheckpointError, match=f"the model's embedding has {rows} rows") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(path)
    assert "resize_token_embeddings" in (refusal.value.remedy or "")


MORE = "<more>"


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("added_tokens.json", {MORE: 4095}),
        ("special_tokens_map.json", {"pad_token": MORE}),
        ("special_tokens_map.json", {"pad_token": {"content": MORE}}),
        ("tokenizer_config.json", {"pad_token": MORE}),
        ("tokenizer_config.json", {"additional_special_tokens": [MORE]}),
        ("tokenizer_config.json", {"extra_special_tokens": [MORE]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": MORE}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"4095": {"content": MORE}}}),
        # Beyond the embedding.
        ("tokenizer_config.json", {"added_tokens_decoder": {"9999": {"content": MORE}}}),
    ],
)
def test_tokens_that_transformers_adds_are_found_before_an_export(
    name: str, members: dict[str, Any], folder: Path
) -> None:
    path = folder / name
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | members))
    with pytest.raises(CheckpointError, match=f"{MORE}', which tokenizer.json lacks") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(path)
    assert "save_pretrained" in (refusal.value.remedy or "")
    # With the token in the place of the last one, which keeps the embedding's rows.
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    raw = json.loads(tokenizer.to_str())
    last = max(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    raw["model"]["vocab"][MORE] = raw["model"]["vocab"].pop(last)
    raw["model"]["merges"] = [one for one in raw["model"]["merges"] if "".join(one) != last]
    (folder / TOKENIZER).write_text(json.dumps(raw))
    open_model(str(folder))


def test_special_tokens_that_are_split_are_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": True}))
    with pytest.raises(UnsupportedError, match="split_special_tokens") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(path)


def test_a_tokenizer_that_cannot_be_read_is_found_before_an_export(folder: Path) -> None:
    (folder / TOKENIZER).write_text('{"version": 1}')
    with pytest.raises(CheckpointError, match="tokenizer cannot be read") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(folder / TOKENIZER)


def word_level(**changes: Any) -> bytes:
    """A tokenizer of few words."""
    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    model = {
        "type": "WordLevel",
        "vocab": {"a": 0, "b": 1, "<unk>": 2},
        "unk_token": "<unk>",
    }
    whole: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        **dict.fromkeys(parts),
        "model": model,
    }
    return json.dumps(whole | changes).encode()


WITHOUT_UNKNOWN = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}
BROKEN: dict[str, dict[str, Any]] = {
    "no token for unknown words": {"model": WITHOUT_UNKNOWN},
    "a panic when it encodes": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a panic when it decodes": {
        "decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 99}
    },
    "a panic when it is read": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_that_cannot_be_used_is_found_before_an_export(name: str, folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(word_level(**BROKEN[name]))
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot [a-z ]+: .") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(folder / TOKENIZER)
    assert refusal.value.remedy


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_that_fails_names_its_file(name: str) -> None:
    with pytest.raises(BundleInvalidError, match="the tokenizer cannot") as refusal:
        parse_tokenizer(word_level(**BROKEN[name]), "bundle/tokenizer.json").try_out()
    assert refusal.value.file == "bundle/tokenizer.json"
    assert refusal.value.remedy


def test_a_tokenizer_of_too_many_values_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = word_level()
    parse_tokenizer(data).try_out()
    monkeypatch.setattr(limits, "VALUES", 10)
    with pytest.raises(BundleInvalidError, match="too many values"):
        parse_tokenizer(data)


def test_who_interrupts_a_tokenizer_ends_it() -> None:
    class Interrupted:
        def encode(self, text: str, add_special_tokens: bool) -> None:
            raise KeyboardInterrupt

    tokenizer = TextTokenizer(cast(Any, Interrupted()), TOKENIZER, BundleInvalidError, "")
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("a")


def test_texts_to_score_are_whole(folder: Path) -> None:
    path = folder / TOKENIZER
    whole = parse_tokenizer(path.read_bytes()).encode(TEXT).ids
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(path))
    subject = CheckpointSubject(str(folder), dtype="float32", torch_device=None, context=None)
    assert subject.ids(TEXT) == whole
