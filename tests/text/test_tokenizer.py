# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Prompts as token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from moe_mobile.base.tokenizer import TOKENIZER, parse_tokenizer
from moe_mobile.errors import UsageError
from moe_mobile.quality.subject import CheckpointSubject
from moe_mobile.text.tokenizer import BundleText
from tests.text.published import KINDS, write_bundle_texts
from tests.tokenizers import TEXT


def test_a_prompt_that_no_context_takes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle_texts(tmp_path / "bundle", KINDS["Qwen3"]().files())
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["model"]["context_length"] = 64
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    text, read = BundleText(bundle), []
    encode = text.tokenizer.encode

    def encode_part(part: str, add_special_tokens: bool) -> Any:
        read.append(len(part))
        return encode(part, add_special_tokens)

    monkeypatch.setattr(text.tokenizer, "encode", encode_part)
    content = "天 " * 50_000
    for prompt in (content, [{"role": "user", "content": content}]):
        with pytest.raises(UsageError, match="more than 64 tokens do not fit") as refusal:
            text.encode(prompt)
        assert refusal.value.setting == "prompt"
        assert refusal.value.remedy
    assert max(read) < len(content) / 2
    assert len(text.encode("a" * 64)) <= 64


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    text = BundleText(write_bundle_texts(tmp_path / "bundle", KINDS["Qwen3"]().files()))
    assert text.encode("\ufeffHi") == text.encode("Hi")
    # Elsewhere it is a character.
    assert text.encode("Hi\ufeff") != text.encode("Hi")


def test_texts_to_score_are_whole(demo_copy: Path) -> None:
    path = demo_copy / TOKENIZER
    whole = parse_tokenizer(path.read_bytes()).encode(TEXT).ids
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(path))
    subject = CheckpointSubject(str(demo_copy), dtype="float32", torch_device=None, context=None)
    assert subject.ids(TEXT) == whole
    assert subject.ids(TEXT, 7) == subject.ids(whole, 7) == whole[:7]
