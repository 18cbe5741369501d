# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The sampling that a model comes with, as ``generation_config.json`` says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from moe_mobile.errors import BundleInvalidError
from moe_mobile.text.own_sampling import own_sampling
from tests.text.published import write_bundle_texts


@pytest.mark.parametrize(
    ("config", "settings", "others"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}, (0.6, 20, 0.95), ()),
        ({"do_sample": True}, (1, 50, 1), ()),
        (
            {"do_sample": True, "temperature": None, "repetition_penalty": 1.05, "min_p": 0.15},
            (1, 50, 1),
            ("min_p", "repetition_penalty"),
        ),
        ({"do_sample": True, "repetition_penalty": 1.0, "min_p": None}, (1, 50, 1), ()),
        ({"do_sample": True, "top_k": 0}, (1, 0, 1), ()),
        ({"do_sample": False, "temperature": 0.6}, None, ()),
        ({"temperature": 0.6}, None, ()),
        ({"do_sample": 1}, None, ()),
        ({"do_sample": True, "temperature": "hot"}, None, ()),
        ({"do_sample": True, "temperature": float("nan")}, None, ()),
        ({"do_sample": True, "top_k": 10**400}, None, ()),
        ({"do_sample": True, "top_k": 1.5}, None, ()),
        ({"do_sample": True, "top_p": 7}, None, ()),
        ({}, None, ()),
    ],
)
def test_settings(tmp_path: Path, config: Any, settings: Any, others: tuple[str, ...]) -> None:
    files = {"generation_config.json": json.dumps(config).encode()}
    own = own_sampling(write_bundle_texts(tmp_path / "bundle", files))
    if settings is None:
        assert own is None
    else:
        assert own is not None
        assert (tuple(own.settings.values()), own.others) == (settings, others)
        assert list(own.settings) == ["temperature", "top_k", "top_p"]


def test_what_the_file_does_not_say_is_as_in_transformers(tmp_path: Path) -> None:
    files = {"generation_config.json": b'{"do_sample": true}'}
    own = own_sampling(write_bundle_texts(tmp_path / "bundle", files))
    assert own is not None
    defaults = GenerationConfig()._get_default_generation_params()
    assert own.settings == {name: defaults[name] for name in own.settings}


def test_a_bundle_may_lack_the_file(tmp_path: Path) -> None:
    assert own_sampling(write_bundle_texts(tmp_path / "bundle", {})) is None
    files = {"generation_config.json": b"[]"}
    with pytest.raises(BundleInvalidError, match="must hold a JSON object"):
        own_sampling(write_bundle_texts(tmp_path / "other", files))
