# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts that are scored or recorded, as tokens."""

from __future__ import annotations

import pytest

from moe_mobile.demo import checkpoint_dir, heldout_text
from moe_mobile.errors import UsageError
from moe_mobile.quality import subject
from moe_mobile.quality.subject import CheckpointSubject


def test_a_text_has_a_limit_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = CheckpointSubject(
        str(checkpoint_dir()), dtype="float32", torch_device=None, context=None
    )
    text = heldout_text()[:4000]
    ids = demo.ids(text)
    assert demo.ids(text, 7) == ids[:7]

    monkeypatch.setattr(subject, "MOST_TOKENS", len(ids))
    assert demo.ids(text) == demo.ids(text, len(ids) + 5) == ids
    monkeypatch.setattr(subject, "MOST_TOKENS", len(ids) - 1)
    for most in (None, len(ids)):
        with pytest.raises(UsageError, match=f"has more than {len(ids) - 1} tokens") as caught:
            demo.ids(text, most)
        assert caught.value.setting == "tokens"
    assert demo.ids(text, len(ids) - 1) == ids[:-1]
