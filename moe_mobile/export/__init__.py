# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""From a Hugging Face checkpoint to a bundle: split, quantize, lower, substitute."""

from moe_mobile.export.exporter import export_bundle
from moe_mobile.model.presets import PRESETS, Preset, RandomWeights

__all__ = [
    "PRESETS",
    "Preset",
    "RandomWeights",
    "export_bundle",
]
