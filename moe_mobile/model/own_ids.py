# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The ids that transformers gives to texts, and texts to ids, against ``tokenizer.json``'s.

transformers builds some tokenizers anew, by their class and the settings next to it. A bundle's
texts go through ``tokenizer.json`` alone, which may then be another tokenizer.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_mobile.base.quiet import quiet
from moe_mobile.base.special_tokens import CONFIG
from moe_mobile.base.tokenizer import TOKENIZER, TextTokenizer
from moe_mobile.errors import CheckpointError
from moe_mobile.model.config import JsonObject
from moe_mobile.model.own_tokenizer import SAVE_AGAIN, attempt

_TEXTS = (
    "",
    "Hello",
    " Hello",
    "The  sky   is\tblue, isn't it? I'LL SEE.\n\n  12345 + 67.89",
    "   ",
    "\n",
    "na\u00efve e\u0301t\u00e9 \u212b \ufb01 \u0130 stra\u00dfe",
    "\u5929\u7a7a \uff21 \U0001f642\U0001f469\u200d\U0001f469\u200d\U0001f467 \u0915\u094d\u0937",
    "def f(x):\n    return x ** 2  # <p>a_b</p>\r\n",
)


def require_own_ids(
    folder: Path, files: Mapping[str, bytes], tokenizer: TextTokenizer, theirs: Any
) -> str | None:
    """Raises a CheckpointError if transformers gives a text other ids than ``tokenizer``, or makes
    another text of its ids: some texts are tried, and the rules of both are compared.

    If no file names a class, ``tokenizer.json`` is all that the checkpoint says of its tokenizer,
    and transformers guesses. Then this returns what to tell the user of a difference.

    Args:
        folder: where the files are from, for errors.
        files: those of the checkpoint, judged before.
        theirs: their :func:`moe_mobile.model.own_tokenizer.own_tokenizer`.
    """
    if theirs is None:
        return None
    own, built = tokenizer.rules(), json.loads(theirs.backend_tokenizer.to_str())
    added = {token["content"] for rules in (own, built) for token in rules["added_tokens"]}
    with quiet():
        tried = (_difference(text, tokenizer, theirs) for text in (*_TEXTS, *sorted(added)))
        cause = next(filter(None, tried), None) or _other_rule(own, built)
    if cause is None:
        return None
    named, name = _naming_a_class(files), type(theirs).__name__
    if named is not None:
        raise CheckpointError(
            f"with it, transformers ({name}) {cause}", file=folder / named, remedy=SAVE_AGAIN
        )
    return (
        f"{CONFIG} names no tokenizer_class, and the bundle goes by {TOKENIZER} alone. "
        f"transformers takes {name}, by the model's type, and {cause}. If {TOKENIZER} is right, "
        f'add "tokenizer_class": "PreTrainedTokenizerFast" to {CONFIG}. If not: {SAVE_AGAIN}'
    )


def _difference(text: str, tokenizer: TextTokenizer, theirs: Any) -> str | None:
    """What transformers does otherwise with a text, or with the text's ids."""
    own = tokenizer.ids(text)
    found = attempt(functools.partial(theirs, text))
    ids = own if found is None else list(found["input_ids"])
    if ids != own:
        return (
            f"gives the text {text!r} other ids than {TOKENIZER} does: {ids[:8]} instead of "
            f"{own[:8]}"
        )
    # Which tokens are special is judged with the added tokens.
    decoded = tokenizer.decode(own, skip_special_tokens=False)
    back = attempt(functools.partial(theirs.decode, own, skip_special_tokens=False))
    if back is not None and back != decoded:
        return (
            f"makes another text of the ids {own[:8]} than {TOKENIZER} does: {back!r} instead of "
            f"{decoded!r}"
        )
    return None


def _other_rule(own: JsonObject, built: JsonObject) -> str | None:
    """What of a tokenizer's rules is otherwise in the one that transformers builds, although the
    texts that were tried show nothing of it. What it puts around texts they do show."""
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if _effective(part, own[part]) != _effective(part, built[part]):
            return f"has another {part} than {TOKENIZER}"
    # Which tokens are special is judged with the added tokens.
    flags = ["id", "content", "single_word", "lstrip", "rstrip"]
    if own["normalizer"] is not None:
        flags.append("normalized")
    mine, others = (
        {tuple(token[flag] for flag in flags) for token in rules["added_tokens"]}
        for rules in (own, built)
    )
    for token in sorted(mine ^ others):
        return f"has the added token {token[1]!r} otherwise than {TOKENIZER}, or lacks it"
    # Options that are not set are null, false or empty.
    model, other = ({k: v for k, v in rules["model"].items() if v} for rules in (own, built))
    for member in sorted(model.keys() | other.keys()):
        if model.get(member) != other.get(member):
            return f"has another {member!r} in its model than {TOKENIZER}"
    return None


def _effective(part: str, value: Any) -> Any:
    """A rule without the members that change neither ids nor texts."""
    if isinstance(value, list):
        return [_effective(part, one) for one in value]
    if not isinstance(value, dict):
        return value
    unused = set[str]()
    if value.get("type") == "ByteLevel":
        unused = {"trim_offsets"}
        if part == "decoder":
            unused |= {"add_prefix_space", "use_regex"}
    return {name: _effective(part, one) for name, one in value.items() if name not in unused}


def _naming_a_class(files: Mapping[str, bytes]) -> str | None:
    """The file that tells transformers which tokenizer to build, if one does."""
    for name in (CONFIG, "config.json"):
        with contextlib.suppress(ValueError, AttributeError):
            if json.loads(files.get(name, b"{}")).get("tokenizer_class"):
                return name
    return None
