# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers take texts as they are, and know no token that the model lacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from moe_mobile.base.tokenizer import TOKENIZER, parse_tokenizer
from moe_mobile.demo import checkpoint_dir
from moe_mobile.errors import CheckpointError
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


def test_a_tokenizer_that_cannot_be_read_is_found_before_an_export(folder: Path) -> None:
    (folder / TOKENIZER).write_text('{"version": 1}')
    with pytest.raises(CheckpointError, match="tokenizer cannot be read") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(folder / TOKENIZER)


def test_texts_to_score_are_whole(folder: Path) -> None:
    path = folder / TOKENIZER
    whole = parse_tokenizer(path.read_bytes()).encode(TEXT).ids
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(path))
    subject = CheckpointSubject(str(folder), dtype="float32", torch_device=None, context=None)
    assert subject.ids(TEXT) == whole
