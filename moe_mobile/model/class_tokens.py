# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Special tokens that only transformers' class of a tokenizer knows, such as Qwen2's
``<|endoftext|>``.

A chat template may write them. A bundle must not need transformers for that, so they are written
into its ``tokenizer_config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from moe_mobile.base.special_tokens import CONFIG, naming_files, special_tokens


def with_class_tokens(files: Mapping[str, bytes], theirs: Any) -> dict[str, bytes]:
    """The files of a checkpoint, judged before, with all special tokens of its tokenizer.

    ``theirs``: their :func:`moe_mobile.model.own_tokenizer.own_tokenizer`. They stay as they are if
    that is None.
    """
    config = _members(files, CONFIG)
    named = special_tokens(*(_members(files, name) for name in naming_files(config)))
    tokens = {} if theirs is None else theirs.special_tokens_map
    more = {name: token for name, token in tokens.items() if named.get(name) != token}
    return {**files, CONFIG: json.dumps({**config, **more}).encode()} if more else dict(files)


def _members(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(files.get(name, b"{}"))
    return members
