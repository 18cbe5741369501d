# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Routings as users list them."""

from __future__ import annotations

import pytest

from moe_mobile.base.routings import is_lossy, lossy_mark, split_precisions, split_routings
from moe_mobile.errors import UsageError


@pytest.mark.parametrize(
    ("texts", "routings"),
    [
        (["exact"], ["exact"]),
        (["exact,max-rank:6"], ["exact", "max-rank:6"]),
        (["cache-prior:0.2,J=2"], ["cache-prior:0.2,J=2"]),
        (
            ["cache-prior:0.2,J=2,first=1+drop-cold:0.75,exact , max-rank:6, J=1"],
            ["cache-prior:0.2,J=2,first=1+drop-cold:0.75", "exact", "max-rank:6, J=1"],
        ),
        (["exact,first=1+drop-cold:1,exact"], ["exact,first=1+drop-cold:1", "exact"]),
        (["exact", "cumulative:0.7", "exact"], ["exact", "cumulative:0.7"]),
        # Text that is not an option of any method counts as one: the method refuses it.
        (["cache-prior:0.2,K=2"], ["cache-prior:0.2,K=2"]),
    ],
)
def test_a_comma_before_an_option_does_not_split(texts: list[str], routings: list[str]) -> None:
    assert split_routings(texts) == routings


@pytest.mark.parametrize("texts", [[], [""], ["exact,"], [",exact"], ["exact,,max-rank:6"], [" "]])
def test_a_routing_that_is_missing_is_missed(texts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        split_routings(texts)
    assert caught.value.setting == "routing"


def test_precisions_are_listed_once() -> None:
    assert split_precisions(["full, low", "ranks:1", "low"]) == ["full", "low", "ranks:1"]


def test_lossy_is_all_that_may_change_the_output() -> None:
    assert not any(map(is_lossy, ("exact", "exact,first=1")))
    lossy = ("exact+drop-cold:0.75", "exact,first=1+drop-cold:1", "cache-prior:0.2,J=2")
    assert all(map(is_lossy, lossy))


def test_a_lossy_mark_names_routing_and_precision() -> None:
    end = "what the model computes"
    assert lossy_mark("max-rank:4,J=1", "full") == f"lossy: routing max-rank:4,J=1 changes {end}"
    assert lossy_mark("exact", "ranks:1") == f"lossy: precision ranks:1 changes {end}"
    both = "lossy: routing max-rank:4,J=1 and precision low change"
    assert lossy_mark("max-rank:4,J=1", "low") == f"{both} {end}"
