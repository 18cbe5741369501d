# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``moe.router`` as JSON: the same in a bundle and in a trace."""

from __future__ import annotations

import dataclasses
from typing import Any

from moe_mobile.base.json_field import JsonField
from moe_mobile.base.router import SCORES, SOFTMAX, RouterSpec
from moe_mobile.errors import UnsupportedError


def router_to_json(router: RouterSpec) -> dict[str, Any]:
    """``moe.router``: the members that differ from their defaults, and those without one."""
    value = dataclasses.asdict(router)
    for name, default in dataclasses.asdict(SOFTMAX).items():
        if name not in ("score", "renormalize") and value[name] == default:
            del value[name]
    return value


def parse_router(f: JsonField, experts: int, top_k: int) -> RouterSpec:
    """``moe.router``, in a bundle or a trace. The caller counts the rows of the bias."""
    f.expect_members(("score", "renormalize"), ("scale", "epsilon", "groups", "top_groups", "bias"))
    score = f["score"].one_of(SCORES, UnsupportedError)
    renormalize = f["renormalize"].boolean()
    epsilon = _between(f["epsilon"], 0, 1) if f.has("epsilon") else 0.0
    if epsilon and not renormalize:
        f["epsilon"].fail("is not 0, though the weights are not renormalised")
    groups, top_groups = _groups(f, experts, top_k)
    return RouterSpec(
        score=score,
        renormalize=renormalize,
        scale=_between(f["scale"], 1e-6, 1e6) if f.has("scale") else 1.0,
        epsilon=epsilon,
        groups=groups,
        top_groups=top_groups,
        bias=_bias(f["bias"], score, experts) if f.has("bias") else (),
    )


def _between(f: JsonField, low: float, high: float) -> float:
    value = f.number()
    if not low <= value <= high:
        f.fail("is out of range")
    return value


def _groups(f: JsonField, experts: int, top_k: int) -> tuple[int, int]:
    groups = f["groups"].integer(1, experts) if f.has("groups") else 1
    if experts % groups:
        f["groups"].fail("is not a divisor of moe.num_experts")
    top_groups = f["top_groups"].integer(1, groups) if f.has("top_groups") else 1
    if experts // groups * top_groups < top_k:
        f.fail("has groups that leave fewer than moe.top_k experts")
    return groups, top_groups


def _bias(f: JsonField, score: str, experts: int) -> tuple[tuple[float, ...], ...]:
    if score != "sigmoid":
        f.fail("needs the score sigmoid")
    rows = []
    for field in f.items():
        row = tuple(value.number() for value in field.items())
        if len(row) != experts:
            field.fail("does not have moe.num_experts entries")
        rows.append(row)
    return tuple(rows)
