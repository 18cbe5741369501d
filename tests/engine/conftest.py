# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Bundles that only the engine's tests need, exported once per test run; see tests/bundles.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from moe_mobile.demo import checkpoint_dir
from moe_mobile.export import RandomWeights, export_bundle
from tests.bundles import DemoMaker, OnceMaker

_TEMPLATE = (
    "{{ bos_token }} {% for message in messages %}<{{ message.role }}>{{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def tiny_models(lowered_once: None) -> None:
    """What keeps exports of tiny models short."""


@pytest.fixture(scope="session")
def demo(demo_bundle: DemoMaker) -> Path:
    return demo_bundle()


@pytest.fixture(scope="session")
def large_bundle(made_once: OnceMaker) -> Path:
    """One layer of Qwen1.5-MoE-A2.7B's dimensions with a small vocabulary: 60 experts of 4.6 MiB
    in four bits, and a shared expert four times as wide."""
    # With other seeds two matrices have the same scales, and a second template would be lowered.
    source = RandomWeights("Qwen1.5-MoE-A2.7B", layers=1, vocab_size=512, seed=1)
    return made_once("qwen1.5-layer", lambda out: export_bundle(source, out))


@pytest.fixture(scope="session")
def chat_bundle(made_once: OnceMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a chat template, as a checkpoint's folder brings it."""
    folder = tmp_path_factory.mktemp("checkpoint") / "chatty"
    shutil.copytree(checkpoint_dir(), folder)
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["bos_token"] = {"content": "<|endoftext|>", "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return made_once("chatty", lambda out: export_bundle(folder, out))
