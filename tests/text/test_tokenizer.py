# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers take texts as they are, and know no token that the model lacks."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from moe_mobile.base import limits
from moe_mobile.base.tokenizer import TOKENIZER, TextTokenizer, parse_tokenizer
from moe_mobile.demo import checkpoint_dir
from moe_mobile.errors import BundleInvalidError, CheckpointError, UnsupportedError, UsageError
from moe_mobile.model.added_tokens import require_same_tokens
from moe_mobile.model.own_ids import require_own_ids
from moe_mobile.model.source import open_model
from moe_mobile.quality.subject import CheckpointSubject
from moe_mobile.text.tokenizer import BundleText, load_tokenizer
from tests.files import contents
from tests.text.published import KINDS, write_bundle_texts, write_checkpoint_texts

TEXT = "And the LORD spake unto Moses, saying, Speak unto the children of Israel"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo's checkpoint, to be changed."""
    shutil.copytree(checkpoint_dir(), tmp_path / "demo")
    return tmp_path / "demo"


def test_truncation_and_padding_left_from_training_do_not_apply(folder: Path) -> None:
    path = folder / TOKENIZER
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path))
    expected = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    assert len(expected) > 4
    assert parse_tokenizer(path.read_bytes()).encode(TEXT).ids == expected


def test_random_splits_left_from_training_do_not_apply(tmp_path: Path) -> None:
    raw = json.loads((checkpoint_dir() / TOKENIZER).read_text())
    whole = parse_tokenizer(json.dumps(raw).encode()).encode(TEXT).ids
    raw["model"]["dropout"] = 1.0
    assert parse_tokenizer(json.dumps(raw).encode()).encode(TEXT).ids == whole
    shutil.copytree(checkpoint_dir(), tmp_path / "demo")
    (tmp_path / "demo" / TOKENIZER).write_text(json.dumps(raw))
    open_model(str(tmp_path / "demo"))


def test_a_token_beyond_the_embedding_is_found_before_an_export(folder: Path) -> None:
    path = folder / TOKENIZER
    tokenizer = Tokenizer.from_file(str(path))
    rows = open_model(str(folder)).architecture.vocab_size
    tokenizer.add_tokens([f"<more-{index}>" for index in range(rows)])
    tokenizer.save(str(path))
    with pytest.raises(CheckpointError, match=f"the model's embedding has {rows} rows") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(path)
    assert "resize_token_embeddings" in (refusal.value.remedy or "")


MORE = "<more>"


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("added_tokens.json", {MORE: 4095}),
        ("special_tokens_map.json", {"pad_token": MORE}),
        ("special_tokens_map.json", {"pad_token": {"content": MORE}}),
        ("tokenizer_config.json", {"pad_token": MORE}),
        ("tokenizer_config.json", {"additional_special_tokens": [MORE]}),
        ("tokenizer_config.json", {"extra_special_tokens": [MORE]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": MORE}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"4095": {"content": MORE}}}),
        # Beyond the embedding.
        ("tokenizer_config.json", {"added_tokens_decoder": {"9999": {"content": MORE}}}),
    ],
)
def test_tokens_that_transformers_adds_are_found_before_an_export(
    name: str, members: dict[str, Any], folder: Path
) -> None:
    path = add_members(folder / name, members)
    with pytest.raises(CheckpointError, match=f"{MORE}', which tokenizer.json lacks") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(path)
    assert "save_pretrained" in (refusal.value.remedy or "")
    # With the token in the place of the last one, which keeps the embedding's rows.
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    raw = json.loads(tokenizer.to_str())
    last = max(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    raw["model"]["vocab"][MORE] = raw["model"]["vocab"].pop(last)
    raw["model"]["merges"] = [one for one in raw["model"]["merges"] if "".join(one) != last]
    special = "added_tokens_decoder" not in members
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    flags |= {"normalized": not special, "special": special}
    raw["added_tokens"].append({"id": raw["model"]["vocab"][MORE], "content": MORE, **flags})
    (folder / TOKENIZER).write_text(json.dumps(raw))
    open_model(str(folder))
    assert same_tokens(folder)


def add_members(path: Path, members: dict[str, Any]) -> Path:
    """Adds members to a file of JSON, which may be missing."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | members))
    return path


def same_tokens(folder: Path) -> bool:
    """Whether transformers finds the same tokens in texts as the tokenizer's file alone."""

    def flags(tokens: dict[int, AddedToken]) -> dict[int, object]:
        return {number: token.__getstate__() for number, token in tokens.items()}

    ours = parse_tokenizer((folder / TOKENIZER).read_bytes()).get_added_tokens_decoder()
    return flags(ours) == flags(AutoTokenizer.from_pretrained(folder).added_tokens_decoder)


END = "<|endoftext|>"


@pytest.mark.parametrize(
    ("name", "members", "cause"),
    [
        ("added_tokens.json", {"the": 490}, "'the', which is an ordinary one"),
        ("special_tokens_map.json", {"pad_token": "!"}, "'!', which is an ordinary one"),
        ("tokenizer_config.json", {"pad_token": "!"}, "'!', which is an ordinary one"),
        ("tokenizer_config.json", {"unk_token": "the"}, "'the', which is an ordinary one"),
        ("tokenizer_config.json", {"image_token": "the"}, "'the', which is an ordinary one"),
        ("tokenizer_config.json", {"extra_special_tokens": ["the"]}, "an ordinary one"),
        ("tokenizer_config.json", {"additional_special_tokens": ["the"]}, "an ordinary one"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"490": {"content": "the"}}},
            "'the', which is an ordinary one",
        ),
        *(
            (
                "tokenizer_config.json",
                {"added_tokens_decoder": {"0": {"content": END, "special": True, flag: True}}},
                f"gives the token '{END}' another '{flag}'",
            )
            for flag in ("lstrip", "rstrip", "single_word")
        ),
    ],
    ids=str,
)
def test_tokens_that_transformers_changes_are_found_before_an_export(
    name: str, members: dict[str, Any], cause: str, folder: Path
) -> None:
    add_members(folder / name, members)
    assert not same_tokens(folder)
    with pytest.raises(CheckpointError) as refusal:
        open_model(str(folder))
    assert cause in refusal.value.cause
    assert refusal.value.file == str(folder / name)
    # The remedy.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    open_model(str(folder))
    assert same_tokens(folder)


@pytest.mark.parametrize("normalizes", [True, False])
def test_a_token_of_normalized_texts_is_another_only_if_texts_are_normalized(
    normalizes: bool, folder: Path
) -> None:
    path, config = folder / TOKENIZER, folder / "tokenizer_config.json"
    if normalizes:
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "Lowercase"}})
        )
    token = {"content": END, "special": True, "normalized": True}
    members = json.loads(config.read_text()) | {"added_tokens_decoder": {"0": token}}
    config.write_text(json.dumps(members))
    with contextlib.ExitStack() as refused:
        if normalizes:
            refused.enter_context(pytest.raises(CheckpointError, match="another 'normalized'"))
        open_model(str(folder))


@pytest.mark.parametrize("listed", [True, False])
def test_a_token_that_transformers_makes_special_is_so_in_the_bundle(
    listed: bool, folder: Path
) -> None:
    """As the end of a text of OLMoE-1B-7B-0125-Instruct, which once stood for addresses."""
    path, config = folder / TOKENIZER, folder / "tokenizer_config.json"
    raw = json.loads(path.read_text())
    (token,) = raw["added_tokens"]
    token["special"] = False
    path.write_text(json.dumps(raw))
    members = json.loads(config.read_text())
    assert END in members.values()
    if listed:
        number = token.pop("id")
        # Listed twice, too.
        members["added_tokens_decoder"] = {number: {**token, "special": True}, 9999: token}
    config.write_text(json.dumps(members))
    assert not same_tokens(folder)
    text = f"{TEXT}{END}{TEXT}"
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = parse_tokenizer(open_model(str(folder)).files[TOKENIZER])
    ids = ours.encode(text).ids
    assert ids == theirs(text)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == TEXT + TEXT


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("special_tokens_map.json", {"pad_token": {"content": END, "lstrip": True}}),
        ("tokenizer_config.json", {"pad_token": {"__type": "AddedToken", "content": END}}),
        ("tokenizer_config.json", {"extra_special_tokens": [END], "clean_up": True}),
        ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}),
        ("added_tokens.json", {END: 0}),
    ],
    ids=str,
)
def test_what_names_the_own_tokens_is_accepted(
    name: str, members: dict[str, Any], folder: Path
) -> None:
    add_members(folder / name, members)
    open_model(str(folder))
    assert same_tokens(folder)


@pytest.mark.parametrize("name", KINDS)
def test_published_tokenizers_are_accepted(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]()
    model_type = "mixtral" if "Mixtral" in name else "olmoe" if "OLMoE" in name else "qwen3_moe"
    folder = write_checkpoint_texts(tmp_path / "model", kind.files(), model_type)
    # transformers 4 wrote it too.
    roles = {role: kind.config[role] for role in ("bos_token", "eos_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    assert require_same_tokens(folder, tokenizer) == set()
    require_own_ids(folder, contents(folder), tokenizer)


TEMPLATE: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "b", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
    "special_tokens": {"b": {"id": "b", "ids": [1], "tokens": ["b"]}},
}
LOWERCASE = {"type": "Lowercase"}
SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
OTHERS: dict[str, tuple[str, dict[str, dict[str, Any]], str]] = {
    # add_bos_token is false.
    "a token": (
        "OLMoE-Instruct",
        {TOKENIZER: {"post_processor": TEMPLATE}},
        "tokenizer_config.json",
    ),
    "a space": (
        "Qwen3",
        {"tokenizer_config.json": {"add_prefix_space": True}},
        "tokenizer_config.json",
    ),
    "a normalizer": ("Qwen3", {TOKENIZER: {"normalizer": LOWERCASE}}, "tokenizer_config.json"),
    "words": ("Qwen3", {TOKENIZER: {"pre_tokenizer": SPLIT}}, "tokenizer_config.json"),
    "a class": (
        "Qwen3",
        {
            TOKENIZER: {"normalizer": LOWERCASE},
            "tokenizer_config.json": {"tokenizer_class": None},
            "config.json": {"tokenizer_class": "Qwen2Tokenizer"},
        },
        "config.json",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_that_transformers_builds_otherwise_is_refused(
    name: str, tmp_path: Path
) -> None:
    kind, changes, file = OTHERS[name]
    model_type = "olmoe" if "OLMoE" in kind else "qwen3_moe"
    folder = write_checkpoint_texts(tmp_path / "model", KINDS[kind]().files(), model_type)
    for changed, members in changes.items():
        add_members(folder / changed, members)
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    with pytest.raises(CheckpointError, match=r"gives the text '.*other ids than") as refusal:
        require_own_ids(folder, contents(folder), tokenizer)
    assert refusal.value.file == str(folder / file)
    # The remedy.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    saved = parse_tokenizer((folder / TOKENIZER).read_bytes())
    require_own_ids(folder, contents(folder), saved)


def test_without_a_named_class_the_rules_of_the_file_are_those(tmp_path: Path) -> None:
    """transformers would guess a class by the model's type."""
    folder = write_checkpoint_texts(tmp_path / "model", KINDS["Qwen3"]().files(), "qwen3_moe")
    (folder / "tokenizer_config.json").unlink()
    add_members(folder / TOKENIZER, {"normalizer": LOWERCASE})
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    require_own_ids(folder, contents(folder), tokenizer)
    assert AutoTokenizer.from_pretrained(folder)("A")["input_ids"] != tokenizer.ids("A")


def test_what_transformers_cannot_load_alone_is_not_compared(folder: Path) -> None:
    """Its own code would be needed, which is not run."""
    code = {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    add_members(folder / "tokenizer_config.json", code | {"tokenizer_class": "OwnTokenizer"})
    (folder / "own.py").write_text("raise SystemExit\n")
    assert TOKENIZER in open_model(str(folder)).files


def test_published_special_tokens_that_are_not_listed(tmp_path: Path) -> None:
    """As before there was a list in the configuration."""
    files = KINDS["Mixtral-Instruct v0.1"]().files()
    config = json.loads(files["tokenizer_config.json"])
    del config["added_tokens_decoder"]
    files["tokenizer_config.json"] = json.dumps(config).encode()
    folder = write_checkpoint_texts(tmp_path / "model", files, "mixtral")
    tokenizer = parse_tokenizer((folder / TOKENIZER).read_bytes())
    assert require_same_tokens(folder, tokenizer) == set()
    assert same_tokens(folder)


def test_texts_that_transformers_cleans_are_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    clean = "clean_up_tokenization_spaces"
    forced = {clean: True, f"{clean}_for_bpe_even_though_it_will_corrupt_output": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | forced))
    with pytest.raises(UnsupportedError, match=clean) as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(path)
    words = parse_tokenizer(word_level())
    path.write_text(json.dumps({clean: True}))
    with pytest.raises(UnsupportedError, match=clean):
        require_same_tokens(folder, words)


def test_special_tokens_that_are_split_are_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": True}))
    with pytest.raises(UnsupportedError, match="split_special_tokens") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(path)


def test_a_tokenizer_that_cannot_be_read_is_found_before_an_export(folder: Path) -> None:
    (folder / TOKENIZER).write_text('{"version": 1}')
    with pytest.raises(CheckpointError, match="tokenizer cannot be read") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(folder / TOKENIZER)


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


WITHOUT_UNKNOWN = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}
BROKEN: dict[str, dict[str, Any]] = {
    "no token for unknown words": {"model": WITHOUT_UNKNOWN},
    "a panic when it encodes": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a panic when it decodes": {
        "decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 99}
    },
    "a panic when it is read": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_that_cannot_be_used_is_found_before_an_export(name: str, folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(word_level(**BROKEN[name]))
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot [a-z ]+: .") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(folder / TOKENIZER)
    assert refusal.value.remedy


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_that_fails_names_its_file(name: str) -> None:
    with pytest.raises(BundleInvalidError, match="the tokenizer cannot") as refusal:
        parse_tokenizer(word_level(**BROKEN[name]), "bundle/tokenizer.json").try_out()
    assert refusal.value.file == "bundle/tokenizer.json"
    assert refusal.value.remedy


def test_a_tokenizer_of_too_many_values_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = word_level()
    parse_tokenizer(data).try_out()
    monkeypatch.setattr(limits, "VALUES", 10)
    with pytest.raises(BundleInvalidError, match="too many values"):
        parse_tokenizer(data)


def replace(pattern: object, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(of: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", of: list(steps)}


def table(*texts: str) -> dict[str, Any]:
    """SentencePiece's, without an index."""
    data = bytes(4) + b"".join(text.encode() + b"\0" for text in texts)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


LONGER = replace({"String": "e"}, "e" * 1000)
SPACE = {"String": " "}
MANY = {"b": {"id": "b", "ids": [1] * 600, "tokens": ["b"] * 600}}
GROWING: dict[str, dict[str, Any]] = {
    "text": {"normalizer": LONGER},
    "texts": {"normalizer": sequence("normalizers", *[replace({"String": "e"}, "e" * 9)] * 3)},
    "nested": {"normalizer": sequence("normalizers", sequence("normalizers", LONGER))},
    "nothing": {"normalizer": replace({"Regex": ""}, "e" * 600)},
    "characters": {
        "normalizer": sequence("normalizers", *[replace(SPACE, "\ufdfa"), {"type": "NFKC"}] * 3)
    },
    "table": {"normalizer": table("a", "b" * 600)},
    "before": {"normalizer": {"type": "Prepend", "prepend": "e" * 600}},
    "pieces": {
        "pre_tokenizer": sequence(
            "pretokenizers", *[{"type": "ByteLevel", "add_prefix_space": True}] * 3
        )
    },
    "decoder": {"decoder": sequence("decoders", LONGER)},
    "ids": {"post_processor": TEMPLATE | {"special_tokens": MANY}},
    "token": {"model": {"type": "WordLevel", "vocab": {"a" * 20_000: 0}, "unk_token": "a"}},
}


@pytest.mark.parametrize("name", GROWING)
def test_a_tokenizer_that_makes_texts_too_long_is_not_used(name: str) -> None:
    with pytest.raises(BundleInvalidError, match=r"times as long|a token of more") as refusal:
        parse_tokenizer(word_level(**GROWING[name]), "bundle/tokenizer.json")
    assert refusal.value.file == "bundle/tokenizer.json"
    assert refusal.value.remedy


def test_a_tokenizer_may_make_texts_somewhat_longer() -> None:
    cleaned = replace({"String": "``"}, '"'), {"type": "NFKD"}, {"type": "Lowercase"}
    # As XLNet's, with the longest text of SentencePiece's own table.
    tokenizer = parse_tokenizer(
        word_level(
            normalizer=sequence("normalizers", *cleaned, replace({"Regex": " {2,}"}, " ")),
            pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
            post_processor=TEMPLATE,
        )
    )
    tokenizer.try_out()
    assert tokenizer.ids("a")[0] == 1


OTHER_IDS: dict[str, dict[str, Any]] = {
    "template": TEMPLATE | {"special_tokens": {"b": {"id": "b", "ids": [9999], "tokens": ["b"]}}},
    "BERT": {"type": "BertProcessing", "sep": ["a", 9999], "cls": ["b", 1]},
    "RoBERTa": {
        "type": "RobertaProcessing",
        "sep": ["a", 0],
        "cls": ["b", 9999],
        "trim_offsets": True,
        "add_prefix_space": False,
    },
}
OTHER_IDS["sequence"] = sequence("processors", OTHER_IDS["template"])


@pytest.mark.parametrize("name", OTHER_IDS)
def test_a_token_around_texts_that_the_embedding_lacks_is_found(name: str, folder: Path) -> None:
    path = add_members(folder / TOKENIZER, {"post_processor": OTHER_IDS[name]})
    with pytest.raises(CheckpointError, match="has the id 9999, but the model's embed") as refusal:
        open_model(str(folder))
    assert refusal.value.file == str(path)
    # In a bundle too.
    files = {TOKENIZER: path.read_bytes()}
    load_tokenizer(write_bundle_texts(folder.parent / "large", files, rows=10_000))
    bundle = write_bundle_texts(folder.parent / "small", files, rows=9_999)
    with pytest.raises(BundleInvalidError, match="has the id 9999") as broken:
        load_tokenizer(bundle)
    assert broken.value.file == str(bundle / TOKENIZER)


def test_who_interrupts_a_tokenizer_ends_it() -> None:
    class Interrupted:
        def encode(self, text: str, add_special_tokens: bool) -> None:
            raise KeyboardInterrupt

    tokenizer = TextTokenizer(cast(Any, Interrupted()), TOKENIZER, BundleInvalidError, "")
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("a")


LONG = {
    "words": "".join(f"the {number} children of Israel, naïve 天空 " for number in range(1000)),
    "one word": "heheaé天" * 4_000,
    "spaces": "  \n a" * 5_000,
    "marks": "<|endoftext|></s> </think>x" * 2_000,
    "one text": "e\u0301" * 15_000,
}


@pytest.mark.parametrize("text", LONG)
@pytest.mark.parametrize("kind", ["Qwen3", "OLMoE-Instruct", "Mixtral-Instruct v0.1"])
def test_the_first_tokens_of_a_text_need_no_more_of_it(
    kind: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = parse_tokenizer(KINDS[kind]().files()[TOKENIZER])
    whole, encode, read = tokenizer.encode(LONG[text]).ids, tokenizer.encode, []

    def encode_part(part: str, add_special_tokens: bool) -> Any:
        read.append(len(part))
        return encode(part, add_special_tokens)

    monkeypatch.setattr(tokenizer, "encode", encode_part)
    monkeypatch.setattr("moe_mobile.base.tokenizer._SPARE_TOKENS", 64)
    for most in (1, 10, 700):
        assert tokenizer.ids(LONG[text], most) == whole[: most + 1]
    assert max(read) < len(LONG[text]) / 2
    read.clear()
    for more in (-1, 0, 1):
        assert tokenizer.ids(LONG[text], len(whole) + more)[: len(whole)] == whole
    assert tokenizer.ids(LONG[text]) == whole


def test_a_prompt_that_no_context_takes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle_texts(tmp_path / "bundle", KINDS["Qwen3"]().files())
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["model"]["context_length"] = 64
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    text, read = BundleText(bundle), []
    encode = text.tokenizer.encode

    def encode_part(part: str, add_special_tokens: bool) -> Any:
        read.append(len(part))
        return encode(part, add_special_tokens)

    monkeypatch.setattr(text.tokenizer, "encode", encode_part)
    content = "天 " * 50_000
    for prompt in (content, [{"role": "user", "content": content}]):
        with pytest.raises(UsageError, match="more than 64 tokens do not fit") as refusal:
            text.encode(prompt)
        assert refusal.value.setting == "prompt"
        assert refusal.value.remedy
    assert max(read) < len(content) / 2
    assert len(text.encode("a" * 64)) <= 64


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    text = BundleText(write_bundle_texts(tmp_path / "bundle", KINDS["Qwen3"]().files()))
    assert text.encode("\ufeffHi") == text.encode("Hi")
    # Elsewhere it is a character.
    assert text.encode("Hi\ufeff") != text.encode("Hi")


def test_texts_to_score_are_whole(folder: Path) -> None:
    path = folder / TOKENIZER
    whole = parse_tokenizer(path.read_bytes()).encode(TEXT).ids
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(path))
    subject = CheckpointSubject(str(folder), dtype="float32", torch_device=None, context=None)
    assert subject.ids(TEXT) == whole
    assert subject.ids(TEXT, 7) == subject.ids(whole, 7) == whole[:7]
