# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of the few settings that are left, in turns.

The routers' outputs are those recorded for the text: with random tokens, as in `bench`, the cache
would meet other experts. Each repetition goes on in the text where the one before ended, with the
cache that it left; runs of warm-up filled it, or until more would not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from moe_mobile.base.progress import Progress
from moe_mobile.bench.driver import BundleFacts, Cell, Protocol, check_fits
from moe_mobile.bench.measure import measure
from moe_mobile.bench.router_trace import RouterTrace
from moe_mobile.bench.row import BenchTest
from moe_mobile.bench.store import ResultFile
from moe_mobile.bench.target import open_target
from moe_mobile.device.interface import Device
from moe_mobile.quality.score import Cache
from moe_mobile.routing.trace import Trace
from moe_mobile.settings import EngineSettings
from moe_mobile.tune.choice import Candidate
from moe_mobile.tune.outcome import engine_settings

_TOKENS = 64
"""Decoded in a repetition."""

_MOST = 4
"""Lossy settings that are measured for each size of the cache."""

_REPETITIONS = 5


def contenders(found: Iterable[Candidate]) -> list[Candidate]:
    """Of one capacity: exact routing, and what is accepted of the front, least loads first."""
    group = sorted(found, key=lambda one: one.loads)
    lossy = [one for one in group if one.on_front and one.accepted and one.row.lossy]
    return [*(one for one in group if one.row is one.exact), *lossy[:_MOST]]


def measure_speeds(
    device: Device,
    bundle: BundleFacts,
    candidates: Sequence[Candidate],
    trace: Trace,
    *,
    engine: Mapping[str, Any],
    file: ResultFile | None = None,
    progress: Progress,
) -> dict[Cache, list[float]]:
    """Tokens per second of each repetition; the n-th of all candidates were measured in turns.

    Args:
        engine: settings of the engine that all have in common.
        file: has what was measured before, and gets what is measured now.

    Raises UsageError if the context has no room, IoError if another command measures there,
    and what measuring raises.
    """
    test = BenchTest(0, min(_TOKENS, len(trace.router_logits)))
    rows: list[Cell] = [(test, _settings(one, engine)) for one in candidates]
    check_fits([test], bundle, None)
    protocol = Protocol(_REPETITIONS, warmup=None, interleave=True, router_trace=_replayed(trace))
    packed_dir = engine.get("packed_dir")
    with device.exclusive():
        target = open_target(device, bundle, packed_dir=packed_dir, progress=progress)
        keys = [target.key(row, protocol) for row in rows]
        known = {} if file is None else {key: file.rows[key] for key in keys if key in file.rows}
        # Only what was measured in turns can be compared.
        if len(known) < len(keys):
            turns = None if file is None else file.turns
            for key, result in zip(
                keys, measure(target, rows, protocol, progress, turns), strict=True
            ):
                if file is not None:
                    file.append(result)
                known[key] = result
    return {
        candidate.cache: list(known[key].samples_ts)
        for candidate, key in zip(candidates, keys, strict=True)
    }


def _settings(candidate: Candidate, engine: Mapping[str, Any]) -> EngineSettings:
    values = asdict(engine_settings(candidate)) | dict(engine) | {"initial_cache": "warm"}
    return EngineSettings().with_values(values)


def _replayed(trace: Trace) -> RouterTrace:
    return RouterTrace(
        trace.router_logits,
        {
            "name": "of the text",
            "sha256": hashlib.sha256(trace.router_logits.tobytes()).hexdigest(),
            "source": trace.source,
            "tokens": len(trace.router_logits),
        },
    )
