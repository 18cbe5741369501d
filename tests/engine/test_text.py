# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine continues text and chats, and gives the tokens that token ids give."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from moe_mobile import CacheSettings, Engine, ReadingSettings, RoutingSettings
from moe_mobile.demo import checkpoint_dir
from moe_mobile.errors import BundleCorruptError, BundleInvalidError, UsageError
from moe_mobile.text.template_files import load_chat_template
from tests.bundles import BundleMaker

TEXT = "Once upon a time"
TALK = [{"role": "user", "content": "Tell me a story."}]


@pytest.fixture
def engine(demo: Path) -> Iterator[Engine]:
    with Engine(demo, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))


def test_text_streams_and_equals_decoding_the_ids(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode(TEXT).ids
    ids = list(engine.generate(prompt, 24, ignore_eos=True))
    generation = engine.generate(TEXT, 24, ignore_eos=True)
    pieces = list(generation)
    assert len(pieces) > 8
    assert all(pieces)
    assert "".join(pieces) == tokenizer.decode([*prompt, *ids])[len(tokenizer.decode(prompt)) :]
    result = generation.result()
    assert result.text == "".join(pieces)
    assert result.token_ids == tuple(ids)
    assert (result.prompt_tokens, result.stop) == (len(prompt), "length")
    # One entry for the prompt; the last token is given out but not fed back.
    assert [entry.phase for entry in result.stats.tokens] == ["prefill", *["decode"] * 23]
    assert result.stats == engine.stats
    assert result.stats.totals.total_ns >= sum(e.total_ns for e in result.stats.tokens[1:])
    assert list(generation) == []


def test_a_result_can_be_taken_at_once(engine: Engine) -> None:
    streamed = "".join(engine.generate(TEXT, 12))
    generation = engine.generate(TEXT, 12)
    first = next(generation)
    result = generation.result()
    assert result.text == streamed
    assert streamed.startswith(first)
    assert engine.generate([5, 6, 7], 4).result().text is None


def test_half_characters_are_held_back(engine: Engine, tokenizer: Tokenizer) -> None:
    """A random walk over the vocabulary meets tokens that are parts of characters."""
    for seed in range(4):
        options: dict[str, Any] = {"temperature": 50.0, "seed": seed, "ignore_eos": True}
        generation = engine.generate("🙂 é", 48, **options)
        pieces = list(generation)
        prompt = tokenizer.encode("🙂 é").ids
        whole = tokenizer.decode([*prompt, *generation.result().token_ids])
        assert "".join(pieces) == whole[len(tokenizer.decode(prompt)) :]


def test_messages_go_through_the_models_template(chat_bundle: Path, tokenizer: Tokenizer) -> None:
    written = "<|endoftext|> <user>Tell me a story.\n<assistant>"
    ids = tokenizer.encode(written, add_special_tokens=False).ids
    with Engine(chat_bundle, threads=1) as engine:
        expected = engine.generate(ids, 16, ignore_eos=True).result()
        chat = engine.generate(TALK, 16, ignore_eos=True).result()
        assert chat.token_ids == expected.token_ids
        assert chat.prompt_tokens == len(ids)
        assert chat.text
        with pytest.raises(UsageError, match="message 0 has no text 'role'"):
            engine.generate([{"content": "x"}])


def test_a_model_without_a_template_says_so(engine: Engine) -> None:
    with pytest.raises(UsageError, match="no chat template") as caught:
        engine.generate(TALK)
    assert "as text" in str(caught.value.remedy)


def test_a_bundle_without_a_tokenizer_says_so(bundle: BundleMaker) -> None:
    with Engine(bundle("qwen2_moe", "fp32"), threads=1) as engine:
        with pytest.raises(UsageError, match="no tokenizer") as caught:
            engine.generate(TEXT)
        assert str(caught.value.remedy).startswith("Give token ids as the `prompt` instead of text")
        assert len(list(engine.generate([1, 2], 3, ignore_eos=True))) == 3


def test_a_changed_template_is_noticed(chat_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(chat_bundle, copy)
    with Engine(copy, threads=1) as engine:
        (copy / "chat_template.jinja").write_text("{{ bos_token }}")
        with pytest.raises(BundleCorruptError) as caught:
            engine.generate(TALK)
    assert caught.value.file == str(copy / "chat_template.jinja")


def test_a_template_that_is_not_utf8_is_refused(chat_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(chat_bundle, copy)
    template = b"{{ bos_token }}\xff"
    (copy / "chat_template.jinja").write_bytes(template)
    manifest = json.loads((copy / "bundle.json").read_text())
    for file in manifest["files"]:
        if file["path"] == "chat_template.jinja":
            file["bytes"] = len(template)
            file["sha256"] = hashlib.sha256(template).hexdigest()
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleInvalidError, match="not UTF-8") as caught:
        load_chat_template(copy)
    assert caught.value.file == str(copy / "chat_template.jinja")


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    prompts: list[Any] = ["", [], np.array([], np.int64)]
    for prompt in prompts:
        with pytest.raises(UsageError, match="no tokens") as caught:
            engine.generate(prompt)
        assert caught.value.setting == "prompt"


def test_errors_of_generate_name_the_prompt(engine: Engine, chat_bundle: Path) -> None:
    context = engine.info.settings.context
    assert context is not None
    prompts: list[tuple[Any, str]] = [
        ([1.5], "not an integer"),
        (b"abc", "bytes are not token ids"),
        ([1 << 31], "outside the vocabulary"),
        ([1] * (context + 1), "do not fit in a context"),
        ("\ud800 hi", "character 0 of the text is half a surrogate pair"),
    ]
    for prompt, cause in prompts:
        with pytest.raises(UsageError, match=cause) as caught:
            engine.generate(prompt)
        assert caught.value.setting == "prompt"
        assert caught.value.remedy
    # Other calls have the argument.
    with pytest.raises(UsageError, match="outside the vocabulary") as caught:
        engine.score([1 << 31])
    assert caught.value.setting == "token_ids"
    for messages, cause in (
        ([{"content": "x"}], "message 0 has no text 'role'"),
        ([{"role": "user", "content": "x\udc00"}], "message 0 has half a surrogate pair"),
    ):
        with Engine(chat_bundle, threads=1) as chat, pytest.raises(UsageError, match=cause) as said:
            chat.generate(messages)
        assert said.value.setting == "prompt"


def test_a_generation_that_was_overtaken_has_no_result(engine: Engine) -> None:
    overtaken = engine.generate(TEXT, 8)
    next(overtaken)
    engine.reset()
    engine.generate(TEXT, 2)
    with pytest.raises(UsageError, match="another conversation"):
        overtaken.result()
    with pytest.raises(UsageError, match="failed"):
        overtaken.result()


def test_groups_of_settings_and_keywords_agree(demo: Path, tmp_path: Path) -> None:
    with Engine(
        demo, cache="25%", routing="cache-prior:0.2", lanes=1, pool="layer", threads=1
    ) as engine:
        expected = engine.info
    cache = CacheSettings("25%", pool="layer")
    with Engine(
        demo, cache, RoutingSettings("cache-prior:0.2"), ReadingSettings(lanes=1), threads=1
    ) as engine:
        assert engine.info.settings == expected.settings
    # A keyword replaces that member of its group.
    with Engine(demo, cache, pool="global", threads=1) as engine:
        assert engine.info.settings.cache.pool == "global"
        assert engine.info.settings.cache.size == "25%"
    with pytest.raises(TypeError, match="unknown setting 'spool'"):
        Engine(demo, spool="global")  # type: ignore[call-arg]


def test_the_working_folder_may_change(demo: Path, tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(demo.parent)
    try:
        with Engine(demo.name, threads=1) as engine:
            os.chdir(tmp_path)
            assert engine.generate(TEXT, 2).result().text
    finally:
        os.chdir(before)
