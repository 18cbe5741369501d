# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Router traces recorded by transformers from the full checkpoint, without the engine."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moe_mobile.errors import BudgetError, UnsupportedError, UsageError
from moe_mobile.model.source import OpenModel, open_model
from moe_mobile.routing.trace import Trace, check_tokens, split
from moe_mobile.runner import Progress

__all__ = ["DTYPES", "Checkpoint", "open_checkpoint", "record_transformers"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_DEFAULT_CONTEXT = 4096  # the engine's, so that both make the same sequences
_ROUTER = re.compile(r"layers\.(\d+)\.mlp\.gate")


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint. ``location``: where transformers finds it, a folder or a hub's id."""

    location: str
    model: OpenModel


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """A folder, a Hugging Face id or "demo"; errors as :func:`moe_mobile.model.source.open_model`.

    All tensors are there with the right shapes: transformers would make up those that are not.
    """
    from moe_mobile.demo import checkpoint_dir

    location = os.fspath(source)
    model = open_model(location)
    return Checkpoint(str(checkpoint_dir()) if location == "demo" else location, model)


def record_transformers(
    checkpoint: Checkpoint,
    token_ids: Sequence[int],
    *,
    context: int | None = None,
    dtype: str = "float32",
    torch_device: str | None = None,
    prompt_tokens: int = 0,
    progress: Progress | None = None,
) -> Trace:
    """The router logits of these tokens, in sequences of ``context`` tokens.

    Args:
        context: None: the model's, at most 4096.
        dtype: one of :data:`DTYPES`, in which the whole model computes, routers included.
        torch_device: PyTorch's name; None: ``cuda`` where there is one, else ``cpu``.
        prompt_tokens: see :class:`Trace`.
        progress: called with the stages "load" and "trace".

    Raises:
        UsageError: token ids or a context that the model does not have, or no such device.
        BudgetError: the GPU's memory is too small.
    """
    architecture = checkpoint.model.architecture
    longest = architecture.context_length
    context = min(longest, _DEFAULT_CONTEXT) if context is None else context
    if context > longest:
        raise UsageError(
            f"{context} positions are more than the model's {longest}",
            setting="context",
            remedy="Give a smaller context",
        )
    check_tokens(token_ids, architecture.vocab_size)
    layers = tuple(i for i, layer in enumerate(architecture.layers) if layer.is_moe)
    moe = architecture.moe
    logits = np.empty((len(token_ids), len(layers), moe.num_experts), np.float32)
    sequences = split(len(token_ids), context)
    report = progress or (lambda stage, done, total: None)
    report("load", 0, 1)
    try:
        model = _load(checkpoint, dtype, _device(torch_device))
        begin = 0
        with _recorded(model, layers) as rows:
            for length in sequences:
                report("trace", begin, len(token_ids))
                _run(model, token_ids[begin : begin + length])
                for index, layer in enumerate(layers):
                    logits[begin : begin + length, index] = rows[layer]
                begin += length
    except torch.OutOfMemoryError as error:
        raise BudgetError(
            "the model does not fit into the GPU's memory",
            file=checkpoint.location,
            remedy="Use --torch-device cpu, --dtype bfloat16 or a smaller --context",
        ) from error
    report("trace", len(token_ids), len(token_ids))
    return Trace(
        router_logits=logits,
        token_ids=np.array(token_ids, np.uint32),
        sequences=sequences,
        layers=layers,
        top_k=moe.top_k,
        renormalize=moe.renormalize,
        model=architecture.name,
        source="transformers",
        source_id=checkpoint.model.label,
        precision=dtype,
        prompt_tokens=prompt_tokens,
    )


def _device(name: str | None) -> torch.device:
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
            remedy="Use cpu, or cuda where PyTorch sees a GPU",
        ) from None
    return device


def _load(checkpoint: Checkpoint, dtype: str, device: torch.device) -> Any:
    """The model without its head, in evaluation mode."""
    # Importing it warns of what it imports; loading draws a bar, and remarks that the head is left.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from transformers import AutoModel
        from transformers.utils import logging as bars

        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            model = AutoModel.from_pretrained(checkpoint.location, dtype=DTYPES[dtype])
        finally:
            if shown:
                bars.enable_progress_bar()
    finally:
        logging.disable(disabled)
    return model.to(device).eval()


@contextlib.contextmanager
def _recorded(model: Any, layers: tuple[int, ...]) -> Iterator[dict[int, NDArray[np.float32]]]:
    """While it is open, a dictionary of what each layer's router said last: [tokens, experts]."""
    rows: dict[int, NDArray[np.float32]] = {}

    def hook(layer: int) -> Any:
        def record(module: Any, inputs: Any, output: Any) -> None:
            # The first of what every family's router returns, before the softmax.
            rows[layer] = output[0].float().cpu().numpy()

        return record

    routers = {}
    for name, module in model.named_modules():
        found = _ROUTER.fullmatch(name)
        if found and type(module).__name__.endswith("TopKRouter"):
            routers[int(found[1])] = module
    if tuple(sorted(routers)) != layers:
        raise UnsupportedError(
            f"transformers has routers in the layers {sorted(routers)} of {type(model).__name__}, "
            f"the configuration in {list(layers)}",
            remedy="Use the transformers version that moe-mobile asks for",
        )
    handles = [router.register_forward_hook(hook(i)) for i, router in routers.items()]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def _run(model: Any, token_ids: Sequence[int]) -> None:
    with torch.inference_mode():
        model(torch.tensor([list(token_ids)], device=model.device), use_cache=False)
