# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The families that can be exported. To add one, see docs/adding-a-model-family.md."""

from __future__ import annotations

from moe_mobile.errors import CheckpointError, UnsupportedError
from moe_mobile.model.architecture import Architecture
from moe_mobile.model.families.common import Family, Source
from moe_mobile.model.families.lfm2_moe import LFM2_MOE
from moe_mobile.model.families.mixtral import MIXTRAL
from moe_mobile.model.families.olmoe import OLMOE
from moe_mobile.model.families.qwen2_moe import QWEN2_MOE
from moe_mobile.model.families.qwen3_moe import QWEN3_MOE

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (MIXTRAL, QWEN2_MOE, QWEN3_MOE, OLMOE, LFM2_MOE)
}
"""Rows of the registry by ``model_type``."""


def describe(source: Source) -> tuple[Family, Architecture]:
    """The family and architecture of a configuration.

    Raises:
        UnsupportedError: an unknown family, or an option that its adapter does not know.
        CheckpointError: a configuration that contradicts itself.
    """
    model_type = source.raw.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError("model_type is missing", file=source.file)
    family = FAMILIES.get(model_type)
    if family is None:
        raise UnsupportedError(
            f"model_type {model_type!r} is not supported, only {', '.join(sorted(FAMILIES))}",
            file=source.file,
            remedy="docs/adding-a-model-family.md says how to add a family",
        )
    return family, family.describe(source)
