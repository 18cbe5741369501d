# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers take texts as they are; one that fails names its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from moe_mobile.base import limits
from moe_mobile.base.tokenizer import TOKENIZER, TextTokenizer, parse_tokenizer
from moe_mobile.errors import BundleInvalidError, CheckpointError
from moe_mobile.model.source import open_model
from tests.text.published import KINDS
from tests.tokenizers import TEXT, word_level


def test_truncation_and_padding_left_from_training_do_not_apply(demo_copy: Path) -> None:
    path = demo_copy / TOKENIZER
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path))
    expected = AutoTokenizer.from_pretrained(demo_copy)(TEXT)["input_ids"]
    assert len(expected) > 4
    assert parse_tokenizer(path.read_bytes()).encode(TEXT).ids == expected


def test_random_splits_left_from_training_do_not_apply(demo_copy: Path) -> None:
    path = demo_copy / TOKENIZER
    raw = json.loads(path.read_text())
    whole = parse_tokenizer(json.dumps(raw).encode()).encode(TEXT).ids
    raw["model"]["dropout"] = 1.0
    assert parse_tokenizer(json.dumps(raw).encode()).encode(TEXT).ids == whole
    path.write_text(json.dumps(raw))
    open_model(str(demo_copy))


def test_a_tokenizer_that_cannot_be_read_is_found_before_an_export(demo_copy: Path) -> None:
    (demo_copy / TOKENIZER).write_text('{"version": 1}')
    with pytest.raises(CheckpointError, match="tokenizer cannot be read") as refusal:
        open_model(str(demo_copy))
    assert refusal.value.file == str(demo_copy / TOKENIZER)


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
def test_a_tokenizer_that_cannot_be_used_is_found_before_an_export(
    name: str, demo_copy: Path
) -> None:
    (demo_copy / TOKENIZER).write_bytes(word_level(**BROKEN[name]))
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot [a-z ]+: .") as refusal:
        open_model(str(demo_copy))
    assert refusal.value.file == str(demo_copy / TOKENIZER)
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


FOREIGN_PREFIX = {
    "type": "BPE",
    "vocab": {"a": 0, "\u00e9\u00e9": 1, "a\u00e9": 2},
    "continuing_subword_prefix": "#",
}


@pytest.mark.parametrize("merge", [["a", "\u00e9\u00e9"], "a \u00e9\u00e9"], ids=["pair", "text"])
def test_merges_cut_inside_a_character_do_not_end_the_process(merge: Any) -> None:
    data = word_level(model=FOREIGN_PREFIX | {"merges": [merge]})
    with pytest.raises(BundleInvalidError, match=r"continuing_subword_prefix '#' does not begin"):
        parse_tokenizer(data)


def test_members_of_one_name_are_refused() -> None:
    """Both would be read, and only the last judged."""
    bad = json.dumps(FOREIGN_PREFIX | {"merges": [["a", "\u00e9\u00e9"]]}).encode()
    data = b'{"model": ' + bad + b", " + word_level().lstrip(b"{")
    with pytest.raises(BundleInvalidError, match="two members 'model'"):
        parse_tokenizer(data)


def test_merges_may_have_a_prefix() -> None:
    vocab = {"a": 0, "##b": 1, "ab": 2}
    model = {"type": "BPE", "vocab": vocab, "merges": [["a", "##b"]]}
    data = word_level(model=model | {"continuing_subword_prefix": "##"})
    assert parse_tokenizer(data).ids("ab") == [2]


def test_who_interrupts_a_tokenizer_ends_it() -> None:
    class Interrupted:
        def encode(self, text: str, add_special_tokens: bool) -> None:
            raise KeyboardInterrupt

    tokenizer = TextTokenizer(cast(Any, Interrupted()), TOKENIZER, BundleInvalidError, "")
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("a")


LONG = {
    "words": "".join(f"the {number} children of Israel, naïve 天空 " for number in range(1000)),
    "one word": "heheaé天" * 4_000,
    "spaces": "  \n a" * 5_000,
    "marks": "<|endoftext|></s> </think>x" * 2_000,
    "one text": "e\u0301" * 15_000,
}


@pytest.mark.parametrize("text", LONG)
@pytest.mark.parametrize("kind", ["Qwen3", "OLMoE-Instruct", "Mixtral-Instruct v0.1"])
def test_the_first_tokens_of_a_text_need_no_more_of_it(
    kind: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = parse_tokenizer(KINDS[kind]().files()[TOKENIZER])
    whole, encode, read = tokenizer.encode(LONG[text]).ids, tokenizer.encode, []

    def encode_part(part: str, add_special_tokens: bool) -> Any:
        read.append(len(part))
        return encode(part, add_special_tokens)

    monkeypatch.setattr(tokenizer, "encode", encode_part)
    monkeypatch.setattr("moe_mobile.base.tokenizer._SPARE_TOKENS", 64)
    for most in (1, 10, 700):
        assert tokenizer.ids(LONG[text], most) == whole[: most + 1]
    assert max(read) < len(LONG[text]) / 2
    read.clear()
    for more in (-1, 0, 1):
        assert tokenizer.ids(LONG[text], len(whole) + more)[: len(whole)] == whole
    assert tokenizer.ids(LONG[text]) == whole
