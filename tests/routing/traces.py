# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Traces made from numbers, for tests of all that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.router import RouterSpec
from moe_mobile.routing.trace import Trace, write_trace


def trace_of(logits: NDArray[np.float32], **changes: Any) -> Trace:
    """A top-2 trace of router logits [tokens, layers, experts]; ``changes`` win."""
    tokens, layers, _ = logits.shape
    members: dict[str, Any] = {
        "router_logits": logits,
        "token_ids": np.arange(tokens, dtype=np.uint32),
        "sequences": (tokens,),
        "layers": tuple(range(layers)),
        "top_k": 2,
        "router": RouterSpec(renormalize=True),
        "model": "tiny",
        "source": "engine",
        "source_id": "ab" * 32,
        "precision": "fp32",
    }
    return Trace(**members | changes)


def a_trace(seed: int, tokens: int, **changes: Any) -> Trace:
    """Of random logits, for three layers of eight experts."""
    logits = np.random.default_rng(seed).standard_normal((tokens, 3, 8), dtype=np.float32)
    members: dict[str, Any] = {"logits": logits, "layers": (0, 2, 3)}
    return trace_of(**members | changes)


def write(path: Path, logits: NDArray[np.float32], top_k: int = 2, **changes: Any) -> Path:
    """The file of such a trace."""
    write_trace(path, trace_of(logits, top_k=top_k, **changes))
    return path
