# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs of exports without a model."""

from __future__ import annotations

from typing import Any

from moe_mobile.export.inputs import Inputs


def made_of(weights: str | None = "weights", *, written: str = "", **options: Any) -> Inputs:
    """All but what is given is always the same."""
    return Inputs(
        "description",
        weights,
        {"experts": "8da4w", "variants": ()} | options,
        {"torch": "1.0"},
        written=written,
        source="a model",
        name="model",
    )
