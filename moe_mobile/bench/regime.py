# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How a row was measured: figures of rows that differ in it must not be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_mobile.base.text import digits
from moe_mobile.bench.driver import Protocol
from moe_mobile.bench.filling import FULL

_NOT_RECORDED = "not recorded"

# Path of a member, and what it is called. Settings are not here: they are what rows are compared
# for. Devices are not compared either, but a virtual one is not a phone.
_MEMBERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("n_prompt",), "prompt tokens"),
    (("n_gen",), "decoded tokens"),
    (("n_depth",), "depth"),
    (("bundle_hash",), "bundle"),
    (("model_type",), "model and quantization"),
    (("direct_io",), "reading with O_DIRECT"),
    (("regime", "order"), "order of repetitions"),
    (("regime", "warmup"), "runs of warm-up"),
    (("regime", "gate", "limit_c"), "thermal gate (°C)"),
    (("regime", "gate", "timeout_s"), "time-out of the gate (s)"),
    (("regime", "seed"), "seed of the tokens"),
    (("regime", "router_trace", "sha256"), "replayed router logits"),
    (("regime", "charging"), "charging"),
    (("affinity", "policy"), "choice of cores"),
    (("device", "virtual"), "virtual phone"),
    (("device", "limit"), "memory limit of the virtual phone"),
)


def regime(protocol: Protocol) -> dict[str, Any]:
    """The member ``regime`` of a row, as far as it is known before measuring."""
    gate, trace = protocol.gate, protocol.router_trace
    return {
        "order": "interleaved" if protocol.interleave else "sequential",
        "warmup": FULL if protocol.warmup is None else protocol.warmup,
        "gate": None if gate is None else gate.as_dict(),
        "seed": protocol.seed,
        "router_trace": None if trace is None else dict(trace.facts),
    }


def agreed_charging(states: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether the device was charging in all readings; None if unknown, or not the same."""
    found = {state.get("charging") for state in states}
    return next(iter(found)) if len(found) == 1 else None


def incomparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Why two rows must not be compared, one sentence each; empty if they may be."""
    reasons = []
    for path, name in _MEMBERS:
        left, right = _find(a, path), _find(b, path)
        if left != right:
            reasons.append(f"{name}: {_text(left)} and {_text(right)}")
    return reasons


def _find(row: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The member; "off" below a gate or trace that is null, as it is recorded."""
    value: Any = row
    for name in path:
        if value is None and name in ("limit_c", "timeout_s", "sha256"):
            return "off"
        if not isinstance(value, Mapping) or name not in value:
            return _NOT_RECORDED
        value = value[name]
    return value


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return digits(value, 6) if isinstance(value, float) else str(value)
