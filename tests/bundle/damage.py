# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Random damage to a parsed manifest, for every reader of it."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from moe_mobile.bundle.quantization import QUANTS

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 2**63, 2**64, 2**64 + 1, 10**309]),
    st.sampled_from([16383, 16384, 10**400]),
    st.floats(),
    st.floats(allow_nan=False, width=32),
    st.text(max_size=8),
    st.sampled_from([*QUANTS, "int8", "float16", "float32", "softmax", "attention", "é"]),
    st.sampled_from(["a/b", "..", "../x", "/x", "a//b", ".packed/x", "bundle.json", "x" * 201]),
    st.sampled_from(["A" * 64, ""]),
    st.lists(st.integers(0, 200), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*at, key))
        if isinstance(inner, dict | list):
            found += places(inner, (*at, key))
    return found


def damage(draw: Any, manifest: Any) -> None:
    """Replaces, nudges, removes, adds or copies something inside a parsed manifest."""
    found = places(manifest)
    parent, last = _at(manifest, draw(st.sampled_from(found)))
    action = draw(st.sampled_from(["replace", "nudge", "remove", "add", "copy"]))
    if action == "remove":
        del parent[last]
    elif action == "add" and isinstance(parent, dict):
        name = st.one_of(st.text(max_size=4), st.sampled_from(["extra", "format", "experts"]))
        parent[draw(name)] = draw(VALUES)
    elif action == "add":
        parent.append(draw(VALUES))
    elif action == "nudge" and type(parent[last]) is int:
        parent[last] += draw(st.sampled_from([-16384, -1, 1, 16384]))
    elif action == "copy":
        other, place = _at(manifest, draw(st.sampled_from(found)))
        parent[last] = copy.deepcopy(other[place])
    else:
        parent[last] = draw(VALUES)


def _at(value: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """What holds the place that a path leads to, and its key there."""
    for key in path[:-1]:
        value = value[key]
    return value, path[-1]
