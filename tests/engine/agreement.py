# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The counts of the engine and of the lab for given router logits."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mobile.device.local import LocalDevice
from moe_mobile.results import TokenStats, from_json
from moe_mobile.routing import RoutingRun
from moe_mobile.routing.trace import Trace

Counts = NDArray[np.int64]


def counted(tokens: Iterable[TokenStats]) -> Counts:
    """[tokens, 4] of the tokens decoded: hits, misses that were read, dropped, changed."""
    rows = [
        [t.hits, t.misses, t.dropped, t.slots_changed_by_routing]
        for t in tokens
        if t.phase == "decode"
    ]
    return np.array(rows, np.int64)


def replayed(bundle: Path, trace: Trace, prompt: int = 0, **settings: Any) -> Counts:
    """The engine's counts, with the trace's logits in place of what its routers say."""
    logits = base64.b64encode(trace.router_logits.tobytes()).decode()
    with LocalDevice().runner() as runner:
        runner.request("open", bundle=str(bundle), settings={"threads": 1} | settings)
        result = runner.request(
            "bench",
            n_prompt=prompt,
            n_gen=len(trace.router_logits) - prompt,
            repetitions=1,
            warmup=False,
            router_logits=logits,
        )
    return counted(from_json(tuple[TokenStats, ...], result["samples"][0]["tokens"]))


def simulated(trace: Trace, capacity: int, prompt: int = 0, **settings: Any) -> Counts:
    """The same by the lab, which routes token by token without an engine."""
    _, layers, experts = trace.router_logits.shape
    model: dict[str, Any] = {
        "experts": experts,
        "layers": layers,
        "top_k": trace.top_k,
        "router": trace.router,
    }
    run = RoutingRun(**model, capacity=capacity, **settings)
    exact = RoutingRun(**model, capacity=experts)
    rows = []
    for token, logits in enumerate(trace.router_logits):
        row = np.zeros(4, np.int64)
        for layer in range(layers):
            line = logits[layer : layer + 1]
            routed = run.route(layer, line, prompt=token < prompt)
            (plain,) = exact.route(layer, line).selected
            row += np.array(
                [
                    np.count_nonzero(~routed.missed & (routed.selected >= 0)),
                    np.count_nonzero(routed.missed & ~routed.dropped),
                    np.count_nonzero(routed.dropped),
                    len(set(routed.selected[0].tolist()) - set(plain.tolist())),
                ]
            )
        if token >= prompt:
            rows.append(row)
    return np.stack(rows)
