# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Special tokens by name, as transformers takes them from the files next to ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
DECODER = "added_tokens_decoder"

_ROLES = frozenset(
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
)
# A model's own names are in an object. These are the keys for it, and the last one wins.
_OWN = ("model_specific_special_tokens", "additional_special_tokens", "extra_special_tokens")


def naming_files(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that name special tokens. ``config``: what is in the first of them."""
    return (CONFIG,) if DECODER in config else (CONFIG, SPECIAL)


def special_tokens(
    config: Mapping[str, Any], special: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The tokens that a chat template sees: ``bos_token`` and others, which a model may have under
    names of its own.

    The arguments are what is in the :func:`naming_files`.
    """
    special = special or {}
    # The second file wins, but for a model's own names.
    own = {name: value for name, value in config.items() if name not in _ROLES}
    found = {
        name: value
        for name, value in {**config, **special, **own}.items()
        if name.endswith("_token")
    }
    for members in (config, special):
        for key in _OWN:
            if isinstance(members.get(key), dict):
                found |= members[key]
    contents = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in found.items()
    }
    return {name: text for name, text in contents.items() if isinstance(text, str)}
