# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Router traces recorded by transformers from the full checkpoint, without the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moe_mobile.base.progress import Progress, silent
from moe_mobile.routing.trace import Trace, check_prompt, check_tokens, split
from moe_mobile.routing.transformers_model import (
    Checkpoint,
    checked_context,
    find_device,
    find_routers,
    load_model,
    memory_errors,
)


def record_transformers(
    checkpoint: Checkpoint,
    token_ids: Sequence[int],
    *,
    context: int | None = None,
    dtype: str = "float32",
    torch_device: str | None = None,
    prompt_tokens: int = 0,
    progress: Progress = silent,
) -> Trace:
    """The router logits of these tokens, in sequences of ``context`` tokens.

    Args:
        context: None: the model's, at most 4096.
        dtype: ``float32`` or ``bfloat16``, in which the whole model computes, routers included.
        torch_device: PyTorch's name; None: ``cuda`` if there is one, else ``cpu``.
        prompt_tokens: see :class:`Trace`.
        progress: called with the stages "load" and "trace".

    Raises:
        UsageError: token ids or a context that the model does not have, no such device, or prompts
            that are all there is.
        BudgetError: the GPU's memory is too small.
    """
    facts = checkpoint.facts(dtype)
    layers = facts.layers
    context = checked_context(checkpoint, context)
    check_tokens(token_ids, checkpoint.model.architecture.vocab_size)
    logits = np.empty((len(token_ids), len(layers), facts.experts), np.float32)
    sequences = split(len(token_ids), context)
    check_prompt(prompt_tokens, sequences)
    progress("load model", 0, 1)
    with memory_errors(checkpoint):
        model = load_model(checkpoint, dtype, find_device(torch_device), head=False)
        begin = 0
        with _recorded(model, layers) as rows:
            for length in sequences:
                progress("trace", begin, len(token_ids))
                _run(model, token_ids[begin : begin + length])
                for index, layer in enumerate(layers):
                    logits[begin : begin + length, index] = rows[layer]
                begin += length
    progress("trace", len(token_ids), len(token_ids))
    return Trace(
        router_logits=logits,
        token_ids=np.array(token_ids, np.uint32),
        sequences=sequences,
        layers=layers,
        top_k=facts.top_k,
        router=facts.router,
        model=facts.name,
        source="transformers",
        source_id=checkpoint.model.label,
        precision=dtype,
        prompt_tokens=prompt_tokens,
    )


@contextlib.contextmanager
def _recorded(model: Any, layers: tuple[int, ...]) -> Iterator[dict[int, NDArray[np.float32]]]:
    """While it is open, a dictionary of what each layer's router said last: [tokens, experts]."""
    rows: dict[int, NDArray[np.float32]] = {}

    def hook(layer: int) -> Any:
        def record(module: Any, inputs: Any, output: Any) -> None:
            rows[layer] = output[0].float().cpu().numpy()

        return record

    routers = find_routers(model, layers)
    handles = [router.register_forward_hook(hook(i)) for i, router in routers.items()]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def _run(model: Any, token_ids: Sequence[int]) -> None:
    with torch.inference_mode():
        model(torch.tensor([list(token_ids)], device=model.device), use_cache=False)
