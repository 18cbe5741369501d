# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Recorded router logits that replace those of a bundle's routers while it is measured.

Random weights do not route like a real model. With a trace, a test uses the trace's experts, while
reading and computing are the bundle's.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mobile.bundle.manifest import Manifest
from moe_mobile.errors import UsageError
from moe_mobile.routing.facts import MoeFacts, require_same
from moe_mobile.routing.trace import read_trace


@dataclass(frozen=True, eq=False)
class RouterTrace:
    """A trace to replay.

    Attributes:
        logits: float32 [tokens, MoE layers, experts].
        facts: what a row's regime says of it: ``name``, ``sha256`` of the logits, ``source``,
            ``tokens``.
    """

    logits: NDArray[np.float32]
    facts: dict[str, Any]

    def request(self, repetition: int, positions: int) -> str:
        """The ``router_logits`` of the runner's ``bench`` request.

        Each repetition goes on where the one before ended, and after the last token from the first:
        equal repetitions of two rows replay the same tokens.
        """
        tokens = len(self.logits)
        chosen = (repetition * positions + np.arange(positions)) % tokens
        return base64.b64encode(self.logits[chosen].astype("<f4").tobytes()).decode()


def open_router_trace(
    path: str | os.PathLike[str], *, manifest: Manifest, positions: int
) -> RouterTrace:
    """Read a trace that `moe-mobile trace` wrote, to replace the output of a bundle's routers.

    Its model may have another name, and other layers may have the experts; it is their number that
    counts, how many experts each has and uses, and by what their router scores them.

    Raises:
        UsageError: it has other numbers of layers, experts or experts per token, another kind of
            router, or fewer tokens than ``positions``, those of the longest test; or it is not a
            trace.
        UnsupportedError, IoError: as :func:`moe_mobile.routing.trace.read_trace`.
    """
    trace = read_trace(path)
    tokens = len(trace.router_logits)
    require_same(
        trace.facts.compared(),
        MoeFacts.of_bundle(manifest).compared(),
        file=path,
        other="the bundle",
        remedy="Name a trace of a model with the same",
        but=("model", "layers"),
    )
    if tokens < positions:
        raise UsageError(
            f"has {tokens} tokens, and a test needs {positions}",
            file=path,
            remedy="Record more tokens, or make -p and -n smaller",
        )
    digest = hashlib.sha256(trace.router_logits.tobytes()).hexdigest()
    return RouterTrace(
        trace.router_logits,
        {
            "name": pathlib.Path(path).name,
            "sha256": digest,
            "source": trace.source,
            "tokens": tokens,
        },
    )
