# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of settings: written and read, hostile ones refused, of one bundle."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mobile.errors import IoError, MoeMobileError, UnsupportedError, UsageError
from moe_mobile.tune.settings_file import (
    Choice,
    ChosenSettings,
    Measured,
    SettingsFile,
    read_settings,
    write_settings,
)

HASH = "0123456789abcdef" * 4
CHOSEN = ChosenSettings("50%", "cache-prior:0.2,J=2", "layer", "lru", "prompt")
MEASURED = Measured(1000, HASH, 20.1, 20.0, 0.005, 0.001, 0.4, 1.2, 0.16, 0.0)
EXACT = Choice(
    ChosenSettings("28.125%", "exact", "layer", "lfu:0.9", "warm"),
    dataclasses.replace(MEASURED, change_error=None, tokens_per_second=9.5),
)
FILE = SettingsFile("tiny \u00e9", HASH, "+1%", (Choice(CHOSEN, MEASURED), EXACT))


def good() -> dict[str, Any]:
    choice = {
        "settings": dataclasses.asdict(CHOSEN),
        "lossy": True,
        "measured": dataclasses.asdict(MEASURED),
    }
    return {
        "moe_mobile_settings": 1,
        "created_by": "moe-mobile 9",
        "model": "tiny",
        "bundle_hash": HASH,
        "limit": "+1%",
        "choices": [choice],
    }


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "settings.json"
    assert write_settings(path, FILE) == path.stat().st_size
    assert read_settings(path) == FILE
    assert [choice.lossy for choice in FILE.choices] == [True, False]
    link = tmp_path / "link"
    link.symlink_to(path)
    write_settings(link, dataclasses.replace(FILE, model="other"))
    assert link.is_symlink()
    assert read_settings(path).model == "other"
    assert sorted(child.name for child in path.parent.iterdir()) == ["settings.json"]


def test_settings_that_reading_refuses_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="Is a directory"):
        write_settings(tmp_path, FILE)
    for wrong in (
        dataclasses.replace(FILE, model="a\nb"),
        dataclasses.replace(FILE, choices=()),
        dataclasses.replace(
            FILE, choices=(Choice(CHOSEN, dataclasses.replace(MEASURED, perplexity=float("inf"))),)
        ),
        dataclasses.replace(
            FILE, choices=(Choice(dataclasses.replace(CHOSEN, cache="512MiB"), MEASURED),)
        ),
    ):
        with pytest.raises(UsageError):
            write_settings(tmp_path / "new", wrong)
    assert list(tmp_path.iterdir()) == []


def test_is_for_one_bundle() -> None:
    FILE.require(HASH, "x.json")
    with pytest.raises(UsageError) as caught:
        FILE.require("f" * 64, "x.json")
    assert HASH in caught.value.cause
    assert "f" * 64 in caught.value.cause
    assert caught.value.file == "x.json"


def test_a_choice_for_each_size_of_the_cache() -> None:
    large, small = FILE.choices  # of 50 % and 28.125 %
    assert FILE.pick(None) is large
    for cache, wanted in {
        "28.125%": small,
        " 28.1250% ": small,
        "28.125 %": small,
        "49.9%": small,
        "50.0%": large,
        "100%": large,
    }.items():
        assert FILE.pick(cache) is wanted, cache
    for cache, cause in {
        "28%": "smaller",
        "\u0665%": "not a share",
        "512MiB": "not a share",
        "28.125 parts": "not a share",
    }.items():
        with pytest.raises(UsageError, match=cause) as caught:
            FILE.pick(cache)
        assert "50%, 28.125%" in caught.value.cause
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        ("moe_mobile_settings", 2, UnsupportedError),
        ("moe_mobile_settings", "1", UsageError),
        ("new", 1, UsageError),
        ("model", "", UsageError),
        ("model", "x" * 201, UsageError),
        ("model", "a\u0000b", UsageError),
        ("bundle_hash", "F" * 64, UsageError),
        ("bundle_hash", "f" * 63, UsageError),
        ("limit", 1, UsageError),
        ("choices", [], UsageError),
        ("choices", {}, UsageError),
        ("choices", [1], UsageError),
        ("choices.0.new", 1, UsageError),
        ("choices.0.lossy", False, UsageError),
        ("choices.0.lossy", 1, UsageError),
        ("choices.0.settings.routing", "exact", UsageError),
        ("choices.0.settings.routing", ["exact"], UsageError),
        ("choices.0.settings.routing", " ache-prior:0.2", UsageError),
        ("choices.0.settings.eviction", "fifo", UsageError),
        ("choices.0.settings.cache", "2GiB", UsageError),
        ("choices.0.settings.cache", 50, UsageError),
        ("choices.0.settings.cache", "0%", UsageError),
        ("choices.0.settings.cache", "101%", UsageError),
        ("choices.0.settings.pool", "auto", UsageError),
        ("choices.0.settings.eviction", "", UsageError),
        ("choices.0.settings.initial_cache", "/etc/passwd", UsageError),
        ("choices.0.settings.packed_dir", "/", UsageError),
        ("choices.0.measured.tokens", 0, UsageError),
        ("choices.0.measured.tokens", 1.5, UsageError),
        ("choices.0.measured.perplexity", 0, UsageError),
        ("choices.0.measured.perplexity", "1", UsageError),
        ("choices.0.measured.perplexity_change", 1e300, UsageError),
        ("choices.0.measured.perplexity_change", -1, UsageError),
        ("choices.0.measured.change_error", -1, UsageError),
        ("choices.0.measured.changed_share", 1.1, UsageError),
        ("choices.0.measured.loads_per_token_layer", None, UsageError),
    ],
)
def test_refuses_broken_files(
    tmp_path: Path, place: str, value: Any, error: type[MoeMobileError]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(good()))
    assert read_settings(path).choices == (Choice(CHOSEN, MEASURED),)
    broken = copy.deepcopy(good())
    at: Any = broken
    *parents, last = place.split(".")
    for parent in parents:
        at = at[int(parent) if parent.isdigit() else parent]
    at[last] = value
    path.write_text(json.dumps(broken))
    with pytest.raises(error) as caught:
        read_settings(path)
    assert caught.value.file == str(path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("routing", "precision", "lossy", "cause"),
    [
        (
            "exact",
            "ranks:2",
            False,
            "lossy is false, but routing 'exact' in precision 'ranks:2' changes",
        ),
        ("exact", "full", True, "lossy is true, but routing 'exact' in precision 'full' does not"),
    ],
)
def test_says_what_changes_the_output(
    tmp_path: Path, routing: str, precision: str, lossy: bool, cause: str
) -> None:
    wrong = good()
    wrong["choices"][0]["lossy"] = lossy
    wrong["choices"][0]["settings"] |= {"routing": routing, "precision": precision}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(wrong))
    with pytest.raises(UsageError, match=cause):
        read_settings(path)


def test_has_one_choice_for_a_cache(tmp_path: Path) -> None:
    twice = good()
    twice["choices"].append(copy.deepcopy(twice["choices"][0]))
    twice["choices"][1]["settings"]["cache"] = "50.0%"
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(twice))
    with pytest.raises(UsageError, match="two for one size"):
        read_settings(path)


@pytest.mark.parametrize("member", [*good(), "choices.0.lossy", "choices.0.measured"])
def test_every_member_is_required(tmp_path: Path, member: str) -> None:
    incomplete = good()
    at: Any = incomplete
    *parents, last = member.split(".")
    for parent in parents:
        at = at[int(parent) if parent.isdigit() else parent]
    del at[last]
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(incomplete))
    with pytest.raises(UsageError, match=last):
        read_settings(path)


@settings(max_examples=300)
@given(data=st.data())
def test_damage_gives_a_typed_error_or_valid_settings(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    text = bytearray(json.dumps(good()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "settings.json"
    path.write_bytes(bytes(text))
    try:
        found = read_settings(path)
    except (UsageError, UnsupportedError):
        return
    assert write_settings(path, found)
    assert read_settings(path) == found
