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
from moe_mobile.model.own_tokenizer import attempt

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
) -> None:
    """Raises a CheckpointError if transformers gives a text other ids than ``tokenizer``, or makes
    another text of its ids.

    Says nothing if no file names a class: ``tokenizer.json`` is then all that a checkpoint says of
    its tokenizer.

    Args:
        folder: where the files are from, for errors.
        files: those of the checkpoint, judged before.
        theirs: their :func:`moe_mobile.model.own_tokenizer.own_tokenizer`.
    """
    named = _naming_a_class(files)
    if named is None or theirs is None:
        return
    special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    with quiet():
        for text in (*_TEXTS, *special):
            cause = _difference(text, tokenizer, theirs)
            if cause is not None:
                raise CheckpointError(
                    f"with it, transformers ({type(theirs).__name__}) {cause}",
                    file=folder / named,
                    remedy="Load the tokenizer with transformers and save it again "
                    "(AutoTokenizer.from_pretrained, save_pretrained)",
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


def _naming_a_class(files: Mapping[str, bytes]) -> str | None:
    """The file that tells transformers which tokenizer to build, if one does."""
    for name in (CONFIG, "config.json"):
        with contextlib.suppress(ValueError, AttributeError):
            if json.loads(files.get(name, b"{}")).get("tokenizer_class"):
                return name
    return None
