# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights that were saved from inside another model or a wrapper of training, recognised by their
tensors' names. No tensor is lost then, and downloading the checkpoint again would not help."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from moe_mobile.errors import UnsupportedError

_ADAPTER = (
    "an adapter (LoRA) that was not merged into the model",
    "Merge it (merge_and_unload in peft), save the model, and export that",
)
_WRAPPER = (
    "the wrapper of a training run (FSDP, DDP, torch.compile or checkpointing)",
    "Save the model inside it: unwrap it first (accelerator.unwrap_model, or model.module)",
)
_SEVERAL_PARTS = (
    "a model of several parts, such as one that sees",
    "Save its language model alone (save_pretrained of its text model with the head), and export "
    "that",
)
# What stands in a name, where nothing should, and what it tells: the cause and the remedy.
_INSERTED = (
    (re.compile(r"\.(?:base_layer|original_module)(?=\.)|^base_model\.model\."), _ADAPTER),
    (
        re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.|^module\."),
        _WRAPPER,
    ),
    (re.compile(r"(?:^|(?<=\.))language_model\."), _SEVERAL_PARTS),
)


def refuse_wrapped(stored: Collection[str], used: Collection[str], folder: Path) -> None:
    """Raises an UnsupportedError if a ``used`` tensor is missing, and one of the ``stored`` would
    be that one without what an adapter or a wrapper puts into its name."""
    missing = set(used).difference(stored)
    if not missing:
        return
    for name in stored:
        bare, told = name, None
        for pattern, (cause, remedy) in _INSERTED:
            bare, found = pattern.subn("", bare)
            if found and told is None:
                told = cause, remedy
        # "language_model.model." and "model.language_model." are both common.
        if told is not None and bare in missing:
            raise UnsupportedError(
                f"the weights were saved from inside {told[0]}: {bare} is stored as {name}",
                file=folder,
                remedy=told[1],
            )
