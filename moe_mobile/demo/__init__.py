# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo model: a small mixture-of-experts checkpoint shipped with the product."""

from __future__ import annotations

import pathlib

__all__ = ["checkpoint_dir", "heldout_text"]


def checkpoint_dir() -> pathlib.Path:
    """Folder of the shipped checkpoint (Hugging Face layout, Qwen3-MoE, bf16)."""
    return pathlib.Path(__file__).resolve().parent / "checkpoint"


def heldout_text() -> str:
    """About 60 kB of public-domain text that the demo model was not trained on."""
    return (checkpoint_dir() / "heldout.txt").read_text("utf-8")
