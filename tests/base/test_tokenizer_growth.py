# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer whose rules make texts many times as long is not used."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from moe_mobile.base.tokenizer import parse_tokenizer
from moe_mobile.errors import BundleInvalidError
from tests.tokenizers import TEMPLATE, sequence, word_level


def replace(pattern: object, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def table(*texts: str) -> dict[str, Any]:
    """SentencePiece's, without an index."""
    data = bytes(4) + b"".join(text.encode() + b"\0" for text in texts)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


LONGER = replace({"String": "e"}, "e" * 1000)
SPACE = {"String": " "}
MANY = {"b": {"id": "b", "ids": [1] * 600, "tokens": ["b"] * 600}}
GROWING: dict[str, dict[str, Any]] = {
    "text": {"normalizer": LONGER},
    "texts": {"normalizer": sequence("normalizers", *[replace({"String": "e"}, "e" * 9)] * 3)},
    "nested": {"normalizer": sequence("normalizers", sequence("normalizers", LONGER))},
    "nothing": {"normalizer": replace({"Regex": ""}, "e" * 600)},
    "characters": {
        "normalizer": sequence("normalizers", *[replace(SPACE, "\ufdfa"), {"type": "NFKC"}] * 3)
    },
    "table": {"normalizer": table("a", "b" * 600)},
    "before": {"normalizer": {"type": "Prepend", "prepend": "e" * 600}},
    "pieces": {
        "pre_tokenizer": sequence(
            "pretokenizers", *[{"type": "ByteLevel", "add_prefix_space": True}] * 3
        )
    },
    "decoder": {"decoder": sequence("decoders", LONGER)},
    "ids": {"post_processor": TEMPLATE | {"special_tokens": MANY}},
    "token": {"model": {"type": "WordLevel", "vocab": {"a" * 20_000: 0}, "unk_token": "a"}},
}


@pytest.mark.parametrize("name", GROWING)
def test_a_tokenizer_that_makes_texts_too_long_is_not_used(name: str) -> None:
    with pytest.raises(BundleInvalidError, match=r"times as long|a token of more") as refusal:
        parse_tokenizer(word_level(**GROWING[name]), "bundle/tokenizer.json")
    assert refusal.value.file == "bundle/tokenizer.json"
    assert refusal.value.remedy


def test_a_tokenizer_may_make_texts_somewhat_longer() -> None:
    cleaned = replace({"String": "``"}, '"'), {"type": "NFKD"}, {"type": "Lowercase"}
    # As XLNet's, with the longest text of SentencePiece's own table.
    tokenizer = parse_tokenizer(
        word_level(
            normalizer=sequence("normalizers", *cleaned, replace({"Regex": " {2,}"}, " ")),
            pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
            post_processor=TEMPLATE,
        )
    )
    tokenizer.try_out()
    assert tokenizer.ids("a")[0] == 1
