# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`generate --chat` writes the message as the model's chat template does."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest

from moe_mobile.cli.commands import with_options
from moe_mobile.cli.generate import command
from moe_mobile.errors import UsageError
from tests.cli.conftest import byte_tokenizer
from tests.cli.program import failed, ok, ok_json

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{{ eos_token }}"


@pytest.fixture(scope="module")
def chat_bundle(checkpoint: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Export copies the template with the tokenizer's configuration."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(checkpoint, folder / "tiny")
    config = {"chat_template": TEMPLATE, "eos_token": "<end>"}
    (folder / "tiny" / "tokenizer_config.json").write_text(json.dumps(config))
    ok("export", folder / "tiny", folder / "bundle", "--max-batch", 16, "--head", "8da8w")
    return folder / "bundle"


def test_chat_writes_the_template(chat_bundle: pathlib.Path) -> None:
    ids = byte_tokenizer().encode("[user] Hi<end>").ids
    assert ids[-1] == 256
    run = ("-n", 8, "--ignore-eos")
    chat = ok_json("generate", chat_bundle, "--chat", "-p", "Hi", *run)
    plain = ok_json("generate", chat_bundle, "--token-ids", ",".join(map(str, ids)), *run)
    assert chat["token_ids"] == plain["token_ids"]
    assert chat["prompt_tokens"] == len(ids)
    assert chat["text"] == plain["text"]


def test_chat_needs_a_template_and_a_text(bundle: pathlib.Path, chat_bundle: pathlib.Path) -> None:
    error = failed(2, "generate", bundle, "--chat", "-p", "Hi")
    assert "no chat template" in error["cause"]
    error = failed(2, "generate", chat_bundle, "--chat", "--token-ids", "1,2")
    assert error["setting"] == "--chat"


def test_errors_about_the_prompt_name_its_option() -> None:
    error = with_options(UsageError("is refused", setting="prompt"), command)
    assert error.setting == "--prompt"
    error = with_options(UsageError("no tokenizer", remedy="Give `token_ids`"), command)
    assert error.remedy == "Give --token-ids"
