# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What answers of ``moe_runner`` hold, as far as this package uses them (docs/runner.md has all).

On a phone anything may answer: what passes here can be used without further checks. Numbers are
bounded, so that sums and quotients of them are finite.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from moe_mobile.base import limits
from moe_mobile.results import TokenStats, TotalStats, members_of

# A type, the members of an object, the shape of an array's elements, one of several, or a
# function. An int is a whole number from 0, a float any number from 0, both up to _MOST.
Shape = type | dict[str, "Shape"] | list["Shape"] | tuple["Shape", ...] | Callable[[object], bool]

_MOST = 1 << 62
_MOST_TOKEN = (1 << 32) - 1
# Logits are float32: neither a difference of two nor rounding is larger.
_LEAST_LOG = -1e39
_ROUNDING = 1e-9


def _positive(value: object) -> bool:
    return _fits(value, int) and value != 0


def _token_id(value: object) -> bool:
    return isinstance(value, int) and _fits(value, int) and value <= _MOST_TOKEN


def _share(value: object) -> bool:
    return isinstance(value, int | float) and _fits(value, float) and value <= 1


def _log_probability(value: object) -> bool:
    """The engine refuses to give others than finite ones."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return _LEAST_LOG <= value <= _ROUNDING


def _digits(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and (value.isdigit() or not value)


def _states(value: object) -> bool:
    """See :class:`moe_mobile.results.Residency`."""
    return isinstance(value, str) and set(value) <= set("012")


def _precision(value: object) -> bool:
    return (
        isinstance(value, str)
        and re.fullmatch(r"full|low|ranks:[1-9][0-9]{0,4}", value) is not None
    )


def _one_of(*texts: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in texts


DEFAULTS = {
    "n_prompt": 512, "n_gen": 128, "repetitions": 5,
    "count": 64, "iterations": 50, "max_new_tokens": 128,
}  # fmt: skip
"""Members of requests that may be left out."""

_ERROR = ("code", "file", "setting", "cause", "remedy")
_PLAN: Shape = {"text": str, "slots": int, "num_experts": int, "total_bytes": int}
_TOKEN: Shape = {
    **dict(members_of(TokenStats)),
    "token": _token_id,
    "phase": _one_of("prefill", "decode"),
    "count": _positive,
}
_TOTALS: Shape = {**dict(members_of(TotalStats)), "hit_rate": _share}
_TIMES = [name for name, _ in members_of(TokenStats) if name.endswith("_ns")]
_STATS: Shape = {"totals": _TOTALS, "tokens": [_TOKEN]}
_MEMORY = ("rss_anon", "rss_file", "rss", "peak_rss", "swap", "major_faults")
_SAMPLE: Shape = {
    **dict.fromkeys(("prompt_ns", "gen_ns"), int),
    "itl_ns": [_positive],
    "tokens": [_TOKEN],
    "memory": dict.fromkeys(_MEMORY, int),
}
# Times that must be above 0 if the request's member is.
_TIMES_OF = (("prompt_ns", "n_prompt"), ("ttft_ns", "n_prompt"), ("gen_ns", "n_gen"))
_INFO: dict[str, Shape] = {
    "pid": _positive, "bundle_hash": str, "plan": _PLAN, "direct_io": bool,
    "settings": {
        "cache": str, "residency": str, "precision": _precision, "lanes": int,
        "threads": int, "context": _positive,
    },
    "fallbacks": [str], "moe_mobile": str, "executorch": str,
    "routing": {"requested": str, "resolved": str, "note": str, "lossy": bool},
}  # fmt: skip
EVENTS: dict[str, dict[str, Shape]] = {
    "progress": {"stage": str, "done": int, "total": int},
    "token": {"token": _token_id},
    "plan": {"plan": _PLAN},
}
"""What comes before an answer, and the members that callbacks get."""

_MISS_TIMES = (
    "raw_read_ns", "slot_miss_ns", "slot_rest_ns", "program_read_ns", "program_load_ns",
    "forward_ns",
)  # fmt: skip
_RESULTS: dict[str, Shape] = {
    "prepare": {
        "packed_dir": str, "experts": int, "bytes_written": int, "already_prepared": bool,
        "shards_deleted": int, "bytes_deleted": int,
    },
    "verify": {
        "files": int, "bytes": int,
        "packed": ({"directory": str, "blobs": int, "bytes": int, "complete": bool}, type(None)),
    },
    "digest": {"files": [{"bytes": int, "sha256": str}]},
    "open": {**_INFO, "load_ms": float},
    "info": _INFO,
    "generate": {
        "token_ids": [_token_id], "stop": _one_of("eos", "length", "context"), "position": int,
        "stats": _STATS,
    },
    "score": {"log_probabilities": [_log_probability], "stats": _STATS},
    "trace": {"router_logits": str},
    "bench": {"samples": [_SAMPLE]},
    "cancel": {"cancelled": int},
    "resize": {"plan": _PLAN},
    "residency": {
        "layers": [int], "states": [_states], "variants": [_digits], "hits": [int], "misses": [int],
    },
    "measure_misses": {name: [_positive] for name in _MISS_TIMES},
    "time_program": {"samples_ns": [_positive], "threads": int},
}  # fmt: skip


def _asked(request: Mapping[str, Any], name: str, otherwise: int) -> int:
    """How many of something a request asks for; what the engine will refuse counts as none."""
    value = request.get(name, otherwise)
    return value if isinstance(value, int) and _fits(value, int) else 0


def most_tokens(request: Mapping[str, Any]) -> int:
    """Tokens that may come before the answer."""
    return _asked(request, "max_new_tokens", DEFAULTS["max_new_tokens"])


def most_bytes(request: Mapping[str, Any]) -> int:
    """The length that an answer may have."""
    if request["command"] == "trace":
        return limits.TRACE_BYTES
    lists = sum(len(request.get(name) or ()) for name in ("token_ids", "paths"))
    numbers = sum(
        _asked(request, name, number) for name, number in DEFAULTS.items() if name != "repetitions"
    )
    each = lists + numbers * max(1, _asked(request, "repetitions", 1))
    return min(limits.ANSWER_BYTES + limits.TOKEN_BYTES * each, limits.TRACE_BYTES)


def is_answer(result: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    """Whether a result can be one of that request; unknown members are allowed."""
    command = str(request["command"])
    if not _fits(result, _RESULTS.get(command, dict)):
        return False
    if command == "residency":
        rows = {len(result[name]) for name in ("layers", "states", "variants", "hits", "misses")}
        experts = {len(row) for row in (*result["states"], *result["variants"])}
        return len(rows) == 1 and len(experts) <= 1
    if command == "digest":
        return len(result["files"]) == len(request["paths"])
    if command == "score":
        return len(result["log_probabilities"]) == len(request["token_ids"]) - 1
    if command == "measure_misses":
        return all(
            len(result[name]) == request.get("count", DEFAULTS["count"]) for name in _MISS_TIMES
        )
    if command == "time_program":
        return len(result["samples_ns"]) == int(request.get("iterations", DEFAULTS["iterations"]))
    if command == "bench":
        asked = {**DEFAULTS, **request}
        samples = result["samples"]
        return len(samples) == asked["repetitions"] and all(
            _is_sample(sample, asked) for sample in samples
        )
    return True


def _is_sample(sample: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a repetition, of the right shape, has the tokens that were asked for."""
    prompt, decoded = asked["n_prompt"], asked["n_gen"]
    entries = [("prefill", prompt)] * bool(prompt) + [("decode", 1)] * decoded
    return (
        all(_positive(sample.get(time)) for time, member in _TIMES_OF if asked[member])
        and _share(sample.get("cache_fill", 1))
        and len(sample["itl_ns"]) == decoded
        and sum(sample["itl_ns"]) <= sample["gen_ns"]
        and [(token["phase"], token["count"]) for token in sample["tokens"]] == entries
        # Parts are measured one after the other, by one thread.
        and all(token[part] <= token["total_ns"] for token in sample["tokens"] for part in _TIMES)
    )


def is_event(event: Mapping[str, Any]) -> bool:
    """Whether an event of :data:`EVENTS` has its members."""
    return _fits(event, EVENTS[event["event"]])


def is_error(error: object) -> bool:
    """Whether it is an error object of the engine; members may be missing."""
    return isinstance(error, dict) and all(
        isinstance(error.get(name), str | None) for name in _ERROR
    )


def _fits(value: object, shape: Shape) -> bool:
    if isinstance(shape, tuple):
        return any(_fits(value, one) for one in shape)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            name in value and _fits(value[name], one) for name, one in shape.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    if not isinstance(shape, type):
        return shape(value)
    if shape in (int, float):
        # A bool is not a number here. NaN is out of range.
        kinds = int if shape is int else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value <= _MOST
    return isinstance(value, shape)
