# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Profiles of use: counted from traces, written and read, hostile ones refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_mobile.errors import IoError, MoeMobileError, UnsupportedError, UsageError
from moe_mobile.routing import simulate
from moe_mobile.routing.profile import CacheProfile, count_uses, read_profile, write_profile
from tests.routing.traces import a_trace

PROFILE = CacheProfile("tiny \u00e9", 4, {1: (2, 0, 3, 1), 12: (3,)})


def test_counts_the_experts_that_exact_routing_uses() -> None:
    traces = [a_trace(1, 30, sequences=(10, 20), prompt_tokens=5), a_trace(2, 7)]
    profile = count_uses([lambda: traces[0], lambda: traces[1]])
    assert (profile.model, profile.experts, list(profile.layers)) == ("tiny", 8, [0, 2, 3])
    logits = np.concatenate([trace.router_logits for trace in traces])
    best = np.argsort(-logits, axis=2, kind="stable")[:, :, :2]
    for layer, order in enumerate(profile.layers.values()):
        uses = [int((best[:, layer] == expert).sum()) for expert in range(8)]
        assert list(order) == sorted(range(8), key=lambda e: (-uses[e], e))
    initial = profile.of("tiny", (0, 2, 3), 8)
    assert simulate(logits, 2, 8, "exact", initial_cache=initial).misses == 0
    with pytest.raises(UsageError, match="no traces"):
        count_uses([])


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "profile.json"
    size = write_profile(path, PROFILE)
    assert size == path.stat().st_size
    assert read_profile(path) == PROFILE
    link = tmp_path / "link"
    link.symlink_to(path)
    write_profile(link, CacheProfile("other", 2, {0: (1,)}))
    assert link.is_symlink()
    assert read_profile(path).model == "other"
    with pytest.raises(IoError, match="Is a directory"):
        write_profile(tmp_path, PROFILE)
    with pytest.raises(UsageError, match="control character"):
        write_profile(tmp_path / "new", CacheProfile("a\nb", 2, {0: (1,)}))
    assert not (tmp_path / "new").exists()


def test_is_of_one_model() -> None:
    name = PROFILE.model
    assert PROFILE.of(name, [1, 12], 4) == [(2, 0, 3, 1), (3,)]
    for layers, experts in (([1, 12], 8), ([1], 4), ([12, 1], 4)):
        with pytest.raises(UsageError, match="the profile is of tiny"):
            PROFILE.of(name, layers, experts)
    with pytest.raises(UsageError) as caught:
        PROFILE.of(name, [1, 2, 3, 12], 4)
    assert "the layers 1, 12" in caught.value.cause
    assert "each of 1-3, 12" in str(caught.value.remedy)
    with pytest.raises(UsageError, match="is of tiny \u00e9, and the model is tiny") as caught:
        PROFILE.of("tiny", [1, 12], 4)  # of the same shape, and it uses other experts
    assert caught.value.setting == "initial_cache"
    assert "'model'" in str(caught.value.remedy)


@pytest.mark.parametrize(
    "layers", [{}, {0: ()}, {0: (4,)}, {0: (-1,)}, {0: (1, 1)}, {1: (0,), 0: (0,)}, {-1: (0,)}]
)
def test_contradictory_profiles_are_refused(layers: dict[int, tuple[int, ...]]) -> None:
    with pytest.raises(UsageError):
        CacheProfile("tiny", 4, layers)


GOOD = {"moe_mobile_cache_profile": 1, "model": "tiny", "experts": 4, "layers": {"0": [1, 2]}}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"moe_mobile_cache_profile": 2, "new": 1}, UnsupportedError),
        ({"moe_mobile_cache_profile": "1"}, UsageError),
        ({"moe_mobile_cache_profile": None}, UsageError),
        ({"new": 1}, UsageError),
        ({"model": ""}, UsageError),
        ({"model": "x" * 201}, UsageError),
        ({"experts": 0}, UsageError),
        ({"experts": 65537}, UsageError),
        ({"experts": True}, UsageError),
        ({"layers": []}, UsageError),
        ({"layers": {}}, UsageError),
        ({"layers": {"00": [1]}}, UsageError),
        ({"layers": {"-1": [1]}}, UsageError),
        ({"layers": {"\u0663": [1]}}, UsageError),
        ({"layers": {"4096": [1]}}, UsageError),
        ({"layers": {"0": [4]}}, UsageError),
        ({"layers": {"0": [1.0]}}, UsageError),
        ({"layers": {"0": [1, 1]}}, UsageError),
        ({"layers": {"0": "12"}}, UsageError),
    ],
    ids=str,
)
def test_refuses_broken_files(
    tmp_path: Path, changes: dict[str, Any], error: type[MoeMobileError]
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(GOOD))
    assert read_profile(path) == CacheProfile("tiny", 4, {0: (1, 2)})
    path.write_text(json.dumps(GOOD | changes))
    with pytest.raises(error) as caught:
        read_profile(path)
    assert caught.value.file == str(path)
    assert "simulate TRACE --save-profile" in str(caught.value.remedy) or error is UnsupportedError
