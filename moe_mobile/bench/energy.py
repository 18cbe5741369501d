# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Energy of a repetition, from the readings of the battery's gauge.

It is that of the whole device, with screen and radios: finer figures need root.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moe_mobile.base.json_field import Json
from moe_mobile.device.units import microamperes_per_unit

# The gauge's own steps: below these, a reading says more about the gauge than about the run.
_STEPS = 5
_READINGS = 20
_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Energy:
    """``joules`` is None if nothing was measured. ``note`` says why it is missing or unreliable,
    ``source`` is ``charge counter``, ``current`` or None."""

    joules: float | None
    source: str | None
    note: str | None


def measure_energy(
    samples: Sequence[Mapping[str, Any]],
    duration_ms: float,
    *,
    charging: bool | None,
    virtual: bool = False,
) -> Energy:
    """The energy between the start of a repetition and ``duration_ms`` later.

    The charge counter (times voltage) is preferred if it moved often enough to be exact to a
    fifth; else the current is integrated over time. ``charging`` is None if unknown.
    """
    if charging:
        return Energy(None, None, "the device was charging")
    counter = _counted(samples, duration_ms)
    currents = _currents(samples)
    unit = microamperes_per_unit(currents)
    current = None if unit is None else _integrated(samples, duration_ms, unit)
    if counter is not None and counter[1] >= _STEPS:
        energy = Energy(counter[0], "charge counter", None)
    elif current is not None:
        energy = Energy(
            current[0],
            "current",
            None if current[1] >= _READINGS else "the current was read too rarely",
        )
    elif counter is not None:
        note = "the charge counter moved too little"
        energy = Energy(counter[0], "charge counter", note)
    else:
        readings = sum(sample.get("battery_uah") is not None for sample in samples)
        note = "the charge counter did not move" if readings else "no battery counters"
        if readings == 1:
            note = "the charge counter was read only once"
        if currents and unit is None:
            note = "neither microamperes nor milliamperes make the current plausible"
        return Energy(None, None, note)
    if virtual:
        return dataclasses.replace(energy, note="virtual phone")
    if charging is None:
        return dataclasses.replace(energy, note="unknown whether it was charging")
    if duration_ms < 1000 * _SECONDS:
        return dataclasses.replace(energy, note=f"shorter than {_SECONDS:.0f} s")
    return energy


def in_microamperes(samples: Sequence[Json], readings: Iterable[Json]) -> list[Json]:
    """``readings`` with `battery_ua` in the unit that the samples of a repetition make plausible;
    None if they make none."""
    unit = microamperes_per_unit(_currents(samples))
    return [
        reading | {"battery_ua": None if unit is None or current is None else unit * current}
        for reading in readings
        for current in [reading["battery_ua"]]
    ]


def _currents(samples: Sequence[Mapping[str, Any]]) -> list[int]:
    """As the gauge tells them."""
    return [sample["battery_ua"] for sample in samples if sample.get("battery_ua")]


def _counted(samples: Sequence[Mapping[str, Any]], duration_ms: float) -> tuple[float, int] | None:
    """Joules from the charge counter, extended to the whole time, and how often it moved."""
    points = [
        (s["t_ms"], s["battery_uah"], s["battery_mv"])
        for s in samples
        if s.get("battery_uah") is not None and s.get("battery_mv") is not None
    ]
    # The counter gives an amount of charge exactly only when it has just moved.
    moves = [b for a, b in itertools.pairwise(points) if a[1] != b[1]]
    if not moves or points[0][1] <= points[-1][1]:
        return None
    if len(moves) == 1:
        # From the start's reading to the one step that was seen.
        used, since = points[0][1] - moves[0][1], duration_ms
    else:
        used, since = moves[0][1] - moves[-1][1], moves[-1][0] - moves[0][0]
    volts = math.fsum(point[2] for point in points) / len(points) / 1000
    # 1 uAh = 0.0036 C
    return used * 0.0036 * volts * duration_ms / since, len(moves)


def _integrated(
    samples: Sequence[Mapping[str, Any]], duration_ms: float, unit: int
) -> tuple[float, int] | None:
    """Joules from current times voltage by the trapezoidal rule, ends held, and its readings.

    ``unit``: microamperes that the gauge counts as one. Vendors disagree about the sign of a
    discharge: the amount counts.
    """
    points = [
        (s["t_ms"], unit * abs(s["battery_ua"]) * s["battery_mv"] * 1e-9)
        for s in samples
        if s.get("battery_ua") and s.get("battery_mv") is not None and s["t_ms"] <= duration_ms
    ]
    if len(points) < 2:
        return None
    joules = math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    joules += points[0][0] * points[0][1] + (duration_ms - points[-1][0]) * points[-1][1]
    return joules / 1000, len(points)
