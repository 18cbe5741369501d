# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What tests of tokenizers share: texts, files of few words, changes to files of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = "And the LORD spake unto Moses, saying, Speak unto the children of Israel"
TEMPLATE: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "b", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
    "special_tokens": {"b": {"id": "b", "ids": [1], "tokens": ["b"]}},
}


def sequence(of: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", of: list(steps)}


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


def add_members(path: Path, members: dict[str, Any]) -> Path:
    """Adds members to a file of JSON, which may be missing."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | members))
    return path
