# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Units of what phones read of themselves.

The kernel's pages (Documentation/ABI/testing/sysfs-class-power and -thermal) and Android's
BatteryManager fix them, and vendors do not keep to them: currents come in milliamperes, zones in
whole or tenths of a degree. Here every quantity has the units that are met, each with the range in
which a reading of a running device is plausible. The ranges of one quantity do not overlap as
readings, so a reading has one meaning or none; without one it is unknown (None), and nothing is
decided by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class _Unit(NamedTuple):
    """So many are one (degree, volt, ...); plausible from ``least`` to below ``most``."""

    parts: float
    least: float
    most: float


# From 125 °C on, a sensor is not there: that is where tables of thermistors end.
_ZONE_C = (_Unit(1000, 2, 125), _Unit(10, 15, 110), _Unit(1, 15, 125))
_SKIN_C = (_Unit(1000, 2, 90), _Unit(10, 15, 90), _Unit(1, 15, 90))
_BATTERY_ZONE_C = (_Unit(1000, 2, 70), _Unit(10, 15, 70), _Unit(1, 15, 50))
# A reading below 71 could be tenths or whole degrees: 49 may be 4.9 °C.
_BATTERY_C = (_Unit(10, 7.1, 70), _Unit(1000, 2, 70))
# A single cell when empty, to a laptop's four in a row when full.
_BATTERY_V = (_Unit(1e3, 2.5, 20), _Unit(1e6, 2.5, 20))
_BATTERY_AH = (_Unit(1e6, 0.02, 20), _Unit(1e3, 0.02, 20))
# Gauges that count milliamperes are in phones. 8 A of one cell are 30 W: no phone gets rid of the
# heat. A larger number is of a gauge in microamperes that is idle, as on a charger.
_CURRENT_A = (_Unit(1e6, 0.03, 15), _Unit(1e3, 0.03, 8))

_DEGREES = {"cpu": _ZONE_C[0], "skin": _SKIN_C[0], "battery": _BATTERY_ZONE_C[0]}


def plausible(kind: str, celsius: float) -> float | None:
    """Degrees of a "cpu", "skin" or "battery" sensor whose unit is known, in the range of a zone.
    Those that are off report 0, -40, 125 or nonsense."""
    range_c = _DEGREES[kind]
    return celsius if range_c.least <= celsius < range_c.most else None


def zone_celsius(reading: int) -> float | None:
    """Degrees of a thermal zone: thousandths by the kernel's page; also tenths and whole ones."""
    return _in_the_only_unit(reading, _ZONE_C)


def skin_celsius(reading: int) -> float | None:
    """Degrees of a zone that people touch, in the same units."""
    return _in_the_only_unit(reading, _SKIN_C)


def battery_zone_celsius(reading: int) -> float | None:
    """Degrees of a battery's zone, in the same units."""
    return _in_the_only_unit(reading, _BATTERY_ZONE_C)


def battery_celsius(reading: int) -> float | None:
    """Degrees of a battery: tenths by both pages; also thousandths."""
    return _in_the_only_unit(reading, _BATTERY_C)


def millivolts(reading: int) -> int | None:
    """Of a battery: millivolts by BatteryManager, microvolts in the kernel. Whole volts are too
    coarse to be of use."""
    volts = _in_the_only_unit(reading, _BATTERY_V)
    return None if volts is None else round(1e3 * volts)


def microampere_hours(reading: int) -> int | None:
    """Left in a battery: microampere hours by both pages; also milliampere hours."""
    hours = _in_the_only_unit(reading, _BATTERY_AH)
    return None if hours is None else round(1e6 * hours)


def microamperes_per_unit(readings: Iterable[int]) -> int | None:
    """What a gauge counts currents in: microamperes (1) by both pages; also milliamperes (1000).

    ``readings`` are of a device that computes, of any sign; the largest decides. A single reading
    of one that sleeps could be of either unit.
    """
    most = max(map(abs, readings), default=0)
    amperes = _in_the_only_unit(most, _CURRENT_A)
    return None if amperes is None else round(1e6 * amperes / most)


def _in_the_only_unit(reading: int, units: Sequence[_Unit]) -> float | None:
    values = ((reading / unit.parts, unit) for unit in units)
    return next((value for value, unit in values if unit.least <= value < unit.most), None)
