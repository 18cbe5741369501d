# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The thermal gate: every repetition starts from a cool device, or says that it did not."""

from __future__ import annotations

import dataclasses
import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from moe_mobile.base.text import digits, rounded_up
from moe_mobile.device.interface import Device
from moe_mobile.device.state import DeviceState, read_state
from moe_mobile.errors import CancelledError, UsageError, did_you_mean

CPU_ABOVE_C = 10.0
"""How much warmer than skin and battery the CPU may be: it idles so, and cools in seconds."""

COOL_C, COOL_SECONDS = 40.0, 300.0
"""What phones are cooled to before a repetition by default, and the longest wait for it."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """Skin and battery must be at or below ``limit_c``, the CPU at or below 10 °C more, and
    Android's thermal status 0; after ``timeout_s`` seconds a repetition starts all the same.

    Raises UsageError for a negative or infinite time: JSON, as in rows, has no infinity.
    """

    limit_c: float
    timeout_s: float
    poll_s: float = 2.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.timeout_s) or self.timeout_s < 0:
            raise UsageError(
                f"{digits(self.timeout_s)} s is not a time to wait",
                setting="cool_timeout",
                remedy="Give a number of seconds; 0 measures at once",
            )

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {"limit_c": self.limit_c, "timeout_s": self.timeout_s}

    def obstacle(self, state: DeviceState) -> str | None:
        """What is too warm still; None if the repetition may start."""
        for name, celsius, limit in (
            ("skin", state.skin_c, self.limit_c),
            ("battery", state.battery_c, self.limit_c),
            ("CPU", state.cpu_c, self.limit_c + CPU_ABOVE_C),
        ):
            if celsius is not None and celsius > limit:
                return f"{name} {rounded_up(celsius, 1)} °C, limit {digits(limit)} °C"
        if state.thermal_status:
            return f"thermal status {state.thermal_status}, limit 0"
        return None


@dataclasses.dataclass(frozen=True)
class Wait:
    """How it went: ``outcome`` is ``off``, ``passed`` or ``timed_out``; the last reading."""

    outcome: str
    waited_s: float
    state: DeviceState


def parse_gate(cool_to: str, timeout_s: float) -> Gate | None:
    """The gate for degrees Celsius like ``40``, ``auto`` (:data:`COOL_C`) or ``off`` (None).

    Raises UsageError for anything else, and for an invalid time.
    """
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*°?C?", cool_to, re.ASCII | re.IGNORECASE)
    if match is None and cool_to not in ("auto", "off"):
        raise UsageError(
            f"{cool_to!r} is not a temperature",
            setting="cool_to",
            remedy=did_you_mean(cool_to, ("auto", "off"), "Write degrees Celsius like 40, or off"),
        )
    # The time is checked without a gate too.
    gate = Gate(COOL_C if match is None else float(match[1]), timeout_s)
    return None if cool_to == "off" else gate


def pass_gate(
    device: Device,
    gate: Gate | None,
    tell: Callable[[str, float, float], None],
    stop: threading.Event | None = None,
) -> Wait:
    """Wait until the device is cool, at most the gate's time-out.

    ``tell`` gets what is waited for, seconds waited, and seconds at most. Raises CancelledError
    once ``stop`` is set.
    """
    stop = stop or threading.Event()
    state = read_state(device)
    if gate is None:
        return Wait("off", 0.0, state)
    began = time.monotonic()
    waited = 0.0
    while (obstacle := gate.obstacle(state)) is not None:
        if waited >= gate.timeout_s:
            return Wait("timed_out", waited, state)
        tell(obstacle, waited, gate.timeout_s)
        if stop.wait(min(gate.poll_s, gate.timeout_s - waited)):
            raise CancelledError("stopped by the user")
        state = read_state(device)
        waited = time.monotonic() - began
    return Wait("passed", waited, state)
