# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What answers of ``moe_runner`` hold, as far as this package uses them (docs/runner.md has all).

On a phone anything may answer: what passes here can be used without further looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["is_answer", "is_error", "plan"]

# A type, the members of an object, what all elements of an array are, or one of several.
Shape = type | dict[str, "Shape"] | list["Shape"] | tuple["Shape", ...]

_ERROR = ("code", "file", "setting", "cause", "remedy")
_PLAN: Shape = {"text": str, "slots": int}
_TIMES = ("total_ns", "dense_ns", "attention_ns", "expert_ns", "wait_ns", "router_ns", "head_ns")
_COUNTS = ("hits", "misses", "dropped", "bytes_read", "bytes_wasted")
_TOKEN: Shape = {"phase": str, "count": int, **dict.fromkeys((*_TIMES, *_COUNTS), int)}
_STATS: Shape = {"totals": dict, "tokens": [_TOKEN]}
_MEMORY = ("rss_anon", "rss_file", "rss", "peak_rss", "swap", "major_faults")
_SAMPLE: Shape = {
    **dict.fromkeys(("prompt_ns", "gen_ns"), int),
    "itl_ns": [int],
    "tokens": [_TOKEN],
    "memory": dict.fromkeys(_MEMORY, int),
}
# Times that are more than nothing where the request's member is.
_TIMES_OF = (("prompt_ns", "n_prompt"), ("ttft_ns", "n_prompt"), ("gen_ns", "n_gen"))
_INFO: dict[str, Shape] = {
    "pid": int, "bundle_hash": str, "plan": _PLAN, "settings": {"context": int}, "direct_io": bool,
    "threads": int, "fallbacks": [str], "moe_mobile": str, "executorch": str,
    "routing": {"requested": str, "resolved": str, "note": str, "lossy": bool},
}  # fmt: skip
_MISS_TIMES = (
    "raw_read_ns", "slot_miss_ns", "slot_rest_ns", "program_read_ns", "program_load_ns",
    "forward_ns",
)  # fmt: skip
_RESULTS: dict[str, Shape] = {
    "prepare": {
        "packed_dir": str, "experts": int, "bytes_written": int, "already_prepared": bool,
    },
    "verify": {
        "files": int, "bytes": int,
        "packed": ({"directory": str, "blobs": int, "bytes": int, "complete": bool}, type(None)),
    },
    "digest": {"files": [{"bytes": int, "sha256": str}]},
    "open": {**_INFO, "load_ms": (int, float)},
    "info": _INFO,
    "generate": {"token_ids": [int], "stop": str, "stats": _STATS},
    "score": {"log_probabilities": list, "stats": _STATS},
    "trace": {"router_logits": str},
    "bench": {"samples": [_SAMPLE]},
    "measure_misses": {name: [int] for name in _MISS_TIMES},
    "time_program": {"samples_ns": [int], "threads": int},
}  # fmt: skip


def is_answer(result: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    """Whether a result can be one of that request; members that nobody knows may come."""
    command = str(request["command"])
    shape = _RESULTS.get(command, dict)
    if not _fits(result, shape):
        return False
    if command == "digest":
        return len(result["files"]) == len(request["paths"])
    if command == "bench":
        samples = result["samples"]
        return len(samples) == request.get("repetitions", len(samples)) and all(
            _fits(sample.get(time), int) and sample[time] > 0
            for sample in samples
            for time, asked in _TIMES_OF
            if request.get(asked)
        )
    return True


def is_error(error: object) -> bool:
    """Whether it is an error object of the engine's; members may be missing."""
    return isinstance(error, dict) and all(
        isinstance(error.get(name), str | None) for name in _ERROR
    )


def plan(value: object) -> dict[str, Any]:
    """A memory plan. Raises ValueError for what is none."""
    if not isinstance(value, dict) or not _fits(value, _PLAN):
        raise ValueError("no plan")
    return value


def _fits(value: object, shape: Shape) -> bool:
    if isinstance(shape, tuple):
        return any(_fits(value, one) for one in shape)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            name in value and _fits(value[name], one) for name, one in shape.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    # A bool is no number here.
    return isinstance(value, shape) and isinstance(value, bool) == (shape is bool)
