# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The settings' classes, their names in the engine's JSON, and the engine's check of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_mobile.errors import UsageError
from moe_mobile.settings import (
    CacheSettings,
    EngineSettings,
    ReadingSettings,
    RoutingSettings,
    to_json,
)

EVERYTHING = EngineSettings(
    CacheSettings("25%", "layer", "lfu:0.9", "profile", {0: [3, 1], 2: (0,)}, True),
    RoutingSettings("cache-prior:0.2", "ranks:1"),
    ReadingSettings("programs", 4, Path("packed"), "scratch", overlap=False, direct=False),
    threads=3,
    context=64,
)
REQUEST = {
    "cache": "25%",
    "pool": "layer",
    "eviction": "lfu:0.9",
    "initial_cache": "profile",
    "cache_profile": {"0": [3, 1], "2": [0]},
    "allow_below_cycle": True,
    "routing": "cache-prior:0.2",
    "precision": "ranks:1",
    "residency": "programs",
    "lanes": 4,
    "packed_dir": "packed",
    "scratch_dir": "scratch",
    "overlap": False,
    "direct": False,
    "threads": 3,
    "context": 64,
}


def test_every_member_reaches_the_engine() -> None:
    assert EVERYTHING.as_request() == REQUEST
    EVERYTHING.check()
    members = sum(
        len(dataclasses.fields(group))
        for group in (EVERYTHING.cache, EVERYTHING.routing, EVERYTHING.reading)
    )
    assert len(REQUEST) == members + 2


def test_none_leaves_the_choice_to_the_engine() -> None:
    request = EngineSettings().as_request()
    assert None not in request.values()
    assert not {"threads", "context", "packed_dir", "scratch_dir", "cache_profile"} & set(request)
    EngineSettings().check()


def test_values_go_to_their_groups() -> None:
    names = {**REQUEST, "cache_profile": {0: [3, 1], 2: [0]}}
    assert EngineSettings().with_values(names).as_request() == REQUEST
    changed = EVERYTHING.with_values({"lanes": 1, "initial_cache": "cold"})
    assert changed.reading == dataclasses.replace(EVERYTHING.reading, lanes=1)
    assert changed.cache == dataclasses.replace(EVERYTHING.cache, initial="cold")
    with pytest.raises(TypeError, match="unknown setting 'speed'"):
        EngineSettings().with_values({"speed": 9})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache", "50 parts"),
        ("cache", 5),
        ("pool", 5),
        ("eviction", 0.5),
        ("initial_cache", True),
        ("cache_profile", 5),
        ("cache_profile", [[3, 1]]),
        ("cache_profile", {0: 3}),
        ("cache_profile", {0: ["a"]}),
        ("cache_profile", {0: [0.5]}),
        ("cache_profile", {0: [-1]}),
        ("cache_profile", {"a": [1]}),
        ("cache_profile", {0: [object()]}),
        ("allow_below_cycle", "no"),
        ("routing", 5),
        ("routing", b"exact"),
        ("precision", 1),
        ("residency", 5),
        ("packed_dir", 5),
        ("packed_dir", b"packed"),
        ("scratch_dir", []),
        ("overlap", 1),
        ("direct", "yes"),
        ("threads", "2"),
        ("context", []),
        ("pool", "both"),
        ("eviction", "belady"),
        ("initial_cache", "profile"),
        ("routing", "cache-prior:x"),
        ("residency", "disk"),
        ("lanes", 17),
        ("lanes", -1),
        ("lanes", 2.5),
        ("lanes", "2"),
        ("lanes", float("nan")),
        ("lanes", object()),
        ("lanes", True),
        ("threads", True),
        ("context", True),
        ("cache", "\udcff"),
        ("packed_dir", "\udcff"),
        ("threads", 0),
        ("threads", 2**32),
        ("context", 1.5),
    ],
)
def test_the_engine_refuses_what_makes_no_sense(name: str, value: Any) -> None:
    base = {"initial_cache": "profile"} if name == "cache_profile" else {}
    with pytest.raises(UsageError) as caught:
        EngineSettings().with_values(base | {name: value}).check()
    assert caught.value.remedy
    wanted = "cache_profile" if value == "profile" else name
    assert caught.value.setting == wanted
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("lanes", [0, 2.5, 17, True, "2"])
def test_a_wrong_number_of_lanes_names_the_range(lanes: Any) -> None:
    with pytest.raises(UsageError, match="from 1 to 16"):
        EngineSettings().with_values({"lanes": lanes}).check()


def test_a_number_that_the_engine_cannot_read_is_refused() -> None:
    with pytest.raises(UsageError, match="a number in them is too large"):
        EngineSettings().with_values({"lanes": 10**400}).check()


def test_an_answer_gives_the_settings_that_were_asked_for() -> None:
    settings = EngineSettings.from_request(json.loads(json.dumps(REQUEST)) | {"new": 1})
    assert settings.cache.profile == {0: (3, 1), 2: (0,)}
    assert settings.as_request() == REQUEST


def test_a_text_stands_for_the_first_member_of_a_group() -> None:
    settings = EngineSettings.of("25%", "max-rank:6", "resident", threads=2)
    groups = CacheSettings("25%"), RoutingSettings("max-rank:6"), ReadingSettings("resident")
    assert settings == EngineSettings(*groups, threads=2)
    assert EngineSettings.of() == EngineSettings()


@pytest.mark.parametrize(("group", "value"), [("cache", "25%"), ("routing", 5), ("reading", None)])
def test_a_group_of_another_type_is_refused(group: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"invalid {group} ") as caught:
        EngineSettings(**{group: value})
    assert (caught.value.setting, bool(caught.value.remedy)) == (group, True)


def test_numbers_may_be_numpys() -> None:
    settings = {"lanes": np.int64(3), "temperature": np.float32(0.5), "top_p": np.float64(0.25)}
    assert json.loads(to_json(settings)) == {"lanes": 3, "temperature": 0.5, "top_p": 0.25}
    EngineSettings(reading=ReadingSettings(lanes=np.int64(3))).check()  # type: ignore[arg-type]
