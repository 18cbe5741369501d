# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer's file has the tokens that transformers uses, and the model has a row for each."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from moe_mobile.base.tokenizer import TOKENIZER, parse_tokenizer
from moe_mobile.errors import BundleInvalidError, CheckpointError, UnsupportedError
from moe_mobile.model.added_tokens import require_same_tokens
from moe_mobile.model.source import open_model
from moe_mobile.text.tokenizer import load_tokenizer
from tests.text.published import KINDS, write_bundle_texts, write_checkpoint_texts
from tests.tokenizers import TEMPLATE, TEXT, add_members, sequence, word_level


def test_a_token_beyond_the_embedding_is_found_before_an_export(demo_copy: Path) -> None:
    path = demo_copy / TOKENIZER
    tokenizer = Tokenizer.from_file(str(path))
    rows = open_model(str(demo_copy)).architecture.vocab_size
    tokenizer.add_tokens([f"<more-{index}>" for index in range(rows)])
    tokenizer.save(str(path))
    with pytest.raises(CheckpointError, match=f"the model's embedding has {rows} rows") as refusal:
        open_model(str(demo_copy))
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
    name: str, members: dict[str, Any], demo_copy: Path
) -> None:
    path = add_members(demo_copy / name, members)
    with pytest.raises(CheckpointError, match=f"{MORE}', which tokenizer.json lacks") as refusal:
        open_model(str(demo_copy))
    assert refusal.value.file == str(path)
    assert "save_pretrained" in (refusal.value.remedy or "")
    # With the token in the place of the last one, which keeps the embedding's rows.
    tokenizer = Tokenizer.from_file(str(demo_copy / TOKENIZER))
    raw = json.loads(tokenizer.to_str())
    last = max(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    raw["model"]["vocab"][MORE] = raw["model"]["vocab"].pop(last)
    raw["model"]["merges"] = [one for one in raw["model"]["merges"] if "".join(one) != last]
    special = "added_tokens_decoder" not in members
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    flags |= {"normalized": not special, "special": special}
    raw["added_tokens"].append({"id": raw["model"]["vocab"][MORE], "content": MORE, **flags})
    (demo_copy / TOKENIZER).write_text(json.dumps(raw))
    open_model(str(demo_copy))
    assert same_tokens(demo_copy)


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
    name: str, members: dict[str, Any], cause: str, demo_copy: Path
) -> None:
    add_members(demo_copy / name, members)
    assert not same_tokens(demo_copy)
    with pytest.raises(CheckpointError) as refusal:
        open_model(str(demo_copy))
    assert cause in refusal.value.cause
    assert refusal.value.file == str(demo_copy / name)
    # The remedy.
    AutoTokenizer.from_pretrained(demo_copy).save_pretrained(demo_copy)
    open_model(str(demo_copy))
    assert same_tokens(demo_copy)


@pytest.mark.parametrize("normalizes", [True, False])
def test_a_token_of_normalized_texts_is_another_only_if_texts_are_normalized(
    normalizes: bool, demo_copy: Path
) -> None:
    path, config = demo_copy / TOKENIZER, demo_copy / "tokenizer_config.json"
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
        open_model(str(demo_copy))


@pytest.mark.parametrize("listed", [True, False])
def test_a_token_that_transformers_makes_special_is_so_in_the_bundle(
    listed: bool, demo_copy: Path
) -> None:
    """As the end of a text of OLMoE-1B-7B-0125-Instruct, which once stood for addresses."""
    path, config = demo_copy / TOKENIZER, demo_copy / "tokenizer_config.json"
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
    assert not same_tokens(demo_copy)
    text = f"{TEXT}{END}{TEXT}"
    theirs = AutoTokenizer.from_pretrained(demo_copy)
    ours = parse_tokenizer(open_model(str(demo_copy)).files[TOKENIZER])
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
    name: str, members: dict[str, Any], demo_copy: Path
) -> None:
    add_members(demo_copy / name, members)
    open_model(str(demo_copy))
    assert same_tokens(demo_copy)


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


def test_texts_that_transformers_cleans_are_refused(demo_copy: Path) -> None:
    path = demo_copy / "tokenizer_config.json"
    clean = "clean_up_tokenization_spaces"
    forced = {clean: True, f"{clean}_for_bpe_even_though_it_will_corrupt_output": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | forced))
    with pytest.raises(UnsupportedError, match=clean) as refusal:
        open_model(str(demo_copy))
    assert refusal.value.file == str(path)
    words = parse_tokenizer(word_level())
    path.write_text(json.dumps({clean: True}))
    with pytest.raises(UnsupportedError, match=clean):
        require_same_tokens(demo_copy, words)


def test_special_tokens_that_are_split_are_refused(demo_copy: Path) -> None:
    path = demo_copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": True}))
    with pytest.raises(UnsupportedError, match="split_special_tokens") as refusal:
        open_model(str(demo_copy))
    assert refusal.value.file == str(path)


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
def test_a_token_around_texts_that_the_embedding_lacks_is_found(name: str, demo_copy: Path) -> None:
    path = add_members(demo_copy / TOKENIZER, {"post_processor": OTHER_IDS[name]})
    with pytest.raises(CheckpointError, match="has the id 9999, but the model's embed") as refusal:
        open_model(str(demo_copy))
    assert refusal.value.file == str(path)
    # In a bundle too.
    files = {TOKENIZER: path.read_bytes()}
    load_tokenizer(write_bundle_texts(demo_copy.parent / "large", files, rows=10_000))
    bundle = write_bundle_texts(demo_copy.parent / "small", files, rows=9_999)
    with pytest.raises(BundleInvalidError, match="has the id 9999") as broken:
        load_tokenizer(bundle)
    assert broken.value.file == str(bundle / TOKENIZER)
