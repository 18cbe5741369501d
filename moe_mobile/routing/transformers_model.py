# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in transformers, as far as the lab needs them: loaded quietly, routers at hand."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from moe_mobile.base.memory import REMEDY, memory_to
from moe_mobile.errors import BudgetError, UnsupportedError, UsageError
from moe_mobile.model.source import OpenModel, open_model
from moe_mobile.routing.facts import MoeFacts
from moe_mobile.settings import DEFAULT_CONTEXT

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_ROUTER = re.compile(r"(?:model\.)?layers\.(\d+)\.(?:mlp|feed_forward)\.gate")


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint. ``location``: where transformers finds it, a folder or a hub's id."""

    location: str
    model: OpenModel

    def facts(self, dtype: str) -> MoeFacts:
        """The model's experts, computed in ``dtype``. Raises what reading a router's bias does."""
        architecture = self.model.architecture
        layers = tuple(i for i, layer in enumerate(architecture.layers) if layer.is_moe)
        moe, router = architecture.moe, self.model.router()
        return MoeFacts(architecture.name, layers, moe.num_experts, moe.top_k, router, (dtype,))


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """A folder, a Hugging Face id or "demo"; errors as :func:`moe_mobile.model.source.open_model`.

    All tensors are there with the right shapes: transformers would make up those that are not.
    """
    from moe_mobile.demo import checkpoint_dir

    location = os.fspath(source)
    model = open_model(location)
    return Checkpoint(str(checkpoint_dir()) if location == "demo" else location, model)


def checked_context(checkpoint: Checkpoint, context: int | None) -> int:
    """Positions of a sequence; None: the model's, at most 4096. Raises UsageError."""
    longest = checkpoint.model.architecture.context_length
    if context is None:
        return min(longest, DEFAULT_CONTEXT)
    if context > longest:
        raise UsageError(
            f"{context} positions are more than the model's {longest}",
            setting="context",
            remedy="Give a smaller context",
        )
    return context


def find_device(name: str | None) -> torch.device:
    """PyTorch's device of that name; None: ``cuda`` if there is one, else ``cpu``."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        raise UsageError(
            f"PyTorch cannot use {name!r}: {cause}",
            setting="torch_device",
            remedy="Use cpu, or cuda if PyTorch sees a GPU",
        ) from None
    return device


def load_model(checkpoint: Checkpoint, dtype: str, device: torch.device, *, head: bool) -> Any:
    """The model, with or without its head, in evaluation mode."""
    # Importing it warns of what it imports; loading draws a bar, and remarks that a head is left.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from transformers import AutoModel, AutoModelForCausalLM
        from transformers.utils import logging as bars

        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            kind = AutoModelForCausalLM if head else AutoModel
            model = kind.from_pretrained(checkpoint.location, dtype=DTYPES[dtype])
        finally:
            if shown:
                bars.enable_progress_bar()
    finally:
        logging.disable(disabled)
    return model.to(device).eval()


def find_routers(model: Any, layers: Sequence[int]) -> dict[int, Any]:
    """The router module of each MoE layer, ascending. Raises UnsupportedError for other routers.

    Every family's router returns its logits before softmax or sigmoid and without bias, the weights
    of the selected experts, and the experts.
    """
    routers = {}
    for name, module in model.named_modules():
        found = _ROUTER.fullmatch(name)
        if found and type(module).__name__.endswith("TopKRouter"):
            routers[int(found[1])] = module
    if sorted(routers) != list(layers):
        raise UnsupportedError(
            f"transformers has routers in the layers {sorted(routers)} of {type(model).__name__}, "
            f"the configuration in {list(layers)}",
            remedy="Use the transformers version that moe-mobile asks for",
        )
    return {layer: routers[layer] for layer in layers}


@contextlib.contextmanager
def memory_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Memory that is too small, a GPU's or the machine's, is a BudgetError."""
    remedy = f"Use `dtype` bfloat16 or a smaller `context`. {REMEDY}"
    with memory_to("run the model", checkpoint.location, remedy):
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise BudgetError(
                "the model does not fit into the GPU's memory",
                file=checkpoint.location,
                remedy="Use `torch_device` cpu, `dtype` bfloat16 or a smaller `context`",
            ) from error
