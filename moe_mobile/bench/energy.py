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
from typing import Any, NamedTuple

from moe_mobile.base.json_field import Json
from moe_mobile.base.text import digits
from moe_mobile.device.units import Unit, current_unit, microamperes, plausible_discharge

# The gauge's own steps: below these, a reading says more about the gauge than about the run.
_STEPS = 5
_READINGS = 20
_SECONDS = 30.0
# With so many steps and readings both are exact to about a quarter: a counter that moved five times
# to one step in four, twenty readings of a current that swings to twice its mean to two sigma.
_AGREEING = 1.5
_MAY_CHARGE = "unknown whether it was charging"


@dataclasses.dataclass(frozen=True)
class Energy:
    """``joules`` is None if nothing was measured. ``note`` says why it is missing or unreliable,
    ``source`` is ``charge counter``, ``current`` or None."""

    joules: float | None
    source: str | None
    note: str | None


class _Measured(NamedTuple):
    """``amperes`` are their mean; ``readings``: of the current, or steps of the counter."""

    joules: float
    amperes: float
    readings: int


def measure_energy(
    samples: Sequence[Mapping[str, Any]],
    duration_ms: float,
    *,
    charging: bool | None,
    virtual: bool = False,
) -> Energy:
    """The energy between the start of a repetition and ``duration_ms`` later.

    The charge counter (times voltage) is preferred if it moved often enough to be exact to a
    fifth; else the current is integrated over time. If both are exact and disagree, either
    may be wrong, and the energy is unknown. ``charging`` is None if unknown.
    """
    if charging:
        return Energy(None, None, "the device was charging")
    counter = _counted(samples, duration_ms)
    currents = _currents(samples)
    unit = current_unit(currents, charging=charging)
    current = None if unit is None else _integrated(samples, duration_ms, unit)
    if counter is None and current is None:
        readings = sum(sample.get("battery_uah") is not None for sample in samples)
        note = "the charge counter did not move" if readings else "no battery counters"
        if readings == 1:
            note = "the charge counter was read only once"
        if currents and unit is None:
            note = "neither microamperes nor milliamperes make the current plausible"
            if charging is None:
                note = _MAY_CHARGE
        return Energy(None, None, note)
    energy = _chosen(counter, current)
    if energy.joules is None:
        return energy
    if virtual:
        return dataclasses.replace(energy, note="virtual phone")
    if charging is None:
        return dataclasses.replace(energy, note=_MAY_CHARGE)
    if duration_ms < 1000 * _SECONDS:
        return dataclasses.replace(energy, note=f"shorter than {_SECONDS:.0f} s")
    return energy


def in_microamperes(
    samples: Sequence[Json], readings: Iterable[Json], *, charging: bool | None
) -> list[Json]:
    """``readings`` with `battery_ua` in the unit that the samples of a repetition make plausible;
    None if they make none, and for glitches."""
    unit = current_unit(_currents(samples), charging=charging)
    return [
        reading
        | {"battery_ua": None if unit is None or current is None else microamperes(current, unit)}
        for reading in readings
        for current in [reading["battery_ua"]]
    ]


def _chosen(counter: _Measured | None, current: _Measured | None) -> Energy:
    """What one of two measurements says, or both."""
    note = None
    if counter is not None and not plausible_discharge(counter.amperes):
        if counter.readings >= _STEPS or current is None:
            note = f"the charge counter moved as if {digits(counter.amperes, 3)} A flowed"
        counter = None
    if current is not None and not plausible_discharge(current.amperes):
        note = f"the current was {digits(current.amperes, 3)} A, which no battery gives for long"
        current = None
    by_counter = counter is not None and counter.readings >= _STEPS
    by_current = current is not None and current.readings >= _READINGS
    if counter is not None and current is not None and by_counter and by_current:
        less, more = sorted((counter.joules, current.joules))
        if more > _AGREEING * less:
            both = f"the charge counter says {digits(counter.joules, 3)} J"
            return Energy(None, None, f"{both} and the current {digits(current.joules, 3)} J")
    if counter is not None and (by_counter or current is None):
        rare = None if by_counter else "the charge counter moved too little"
        return Energy(counter.joules, "charge counter", note or rare)
    if current is not None:
        rare = None if by_current else "the current was read too rarely"
        return Energy(current.joules, "current", note or rare)
    return Energy(None, None, note)


def _currents(samples: Sequence[Mapping[str, Any]]) -> list[int]:
    """As the gauge tells them."""
    return [sample["battery_ua"] for sample in samples if sample.get("battery_ua")]


def _counted(samples: Sequence[Mapping[str, Any]], duration_ms: float) -> _Measured | None:
    """From the charge counter, extended to the whole time."""
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
    amperes = 3.6 * used / since  # 1 uAh = 0.0036 C
    # A glitch moves it once down and once up.
    steps = sum(1 if b[1] < a[1] else -1 for a, b in itertools.pairwise(points) if a[1] != b[1])
    return _Measured(amperes * volts * duration_ms / 1000, amperes, steps)


def _integrated(
    samples: Sequence[Mapping[str, Any]], duration_ms: float, unit: Unit
) -> _Measured | None:
    """From current times voltage by the trapezoidal rule, ends held.

    ``unit``: of the gauge; what is not plausible in it is a glitch. Vendors disagree about the sign
    of a discharge: the amount counts.
    """
    points = [
        (s["t_ms"], amperes, s["battery_mv"] / 1000)
        for s in samples
        if s.get("battery_ua") and s.get("battery_mv") is not None and s["t_ms"] <= duration_ms
        for amperes in [unit.value(abs(s["battery_ua"]))]
        if amperes is not None
    ]
    if len(points) < 2:
        return None
    coulombs = _integral([(ms, amperes) for ms, amperes, _ in points], duration_ms)
    joules = _integral([(ms, amperes * volts) for ms, amperes, volts in points], duration_ms)
    return _Measured(joules, 1000 * coulombs / duration_ms, len(points))


def _integral(points: Sequence[tuple[float, float]], duration_ms: float) -> float:
    """Of amounts at milliseconds, over all seconds."""
    area = math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    area += points[0][0] * points[0][1] + (duration_ms - points[-1][0]) * points[-1][1]
    return area / 1000
