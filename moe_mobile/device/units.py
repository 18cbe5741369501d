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

from collections.abc import Sequence
from typing import NamedTuple


class Unit(NamedTuple):
    """So many are one (degree, volt, ...); plausible from ``least`` to below ``most``."""

    parts: float
    least: float
    most: float

    def value(self, reading: float) -> float | None:
        """Degrees, volts, ...; None if a running device has no such reading in this unit."""
        value = reading / self.parts
        return value if self.least <= value < self.most else None


# From 125 °C on, a sensor is not there: that is where tables of thermistors end.
_ZONE_C = (Unit(1000, 2, 125), Unit(10, 15, 110), Unit(1, 15, 125))
_SKIN_C = (Unit(1000, 2, 90), Unit(10, 15, 90), Unit(1, 15, 90))
_BATTERY_ZONE_C = (Unit(1000, 2, 70), Unit(10, 15, 70), Unit(1, 15, 50))
# A reading below 71 could be tenths or whole degrees: 49 may be 4.9 °C.
_BATTERY_C = (Unit(10, 7.1, 70), Unit(1000, 2, 70))
# A single cell when empty, to a laptop's four in a row when full.
_BATTERY_V = (Unit(1e3, 2.5, 20), Unit(1e6, 2.5, 20))
_BATTERY_AH = (Unit(1e6, 0.02, 20), Unit(1e3, 0.02, 20))
# Amperes that a battery gives a device that computes. 8 A of one cell are 30 W: no phone gets rid
# of the heat, and a laptop has up to four cells in a row.
_DISCHARGE = Unit(1, 0.03, 8)
# Gauges that count milliamperes are in phones. Quick chargers give a battery more than it gives.
_CURRENT_A = (Unit(1e6, 0.03, 15), _DISCHARGE._replace(parts=1e3))
# The share of a gauge's readings that decides. Single ones are glitches, such as 65535 or -32768.
_MOST_READINGS = 0.9

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


def current_unit(readings: Sequence[int], *, charging: bool | None) -> Unit | None:
    """What a gauge counts currents in: microamperes by both pages; also milliamperes.

    ``readings`` are of a device that computes, of any sign; nine tenths of them decide. A single
    reading of one that sleeps could be of either unit. So could all readings on a charger, which
    leaves any current to the battery: 3000 may be 3 mA of a full one. Milliamperes are met only if
    ``charging`` is False.
    """
    amounts = [abs(reading) for reading in readings]
    for unit in _CURRENT_A if charging is False else _CURRENT_A[:1]:
        plausible_ones = sum(unit.value(amount) is not None for amount in amounts)
        if amounts and plausible_ones >= _MOST_READINGS * len(amounts):
            return unit
    return None


def microamperes(reading: int, unit: Unit) -> int | None:
    """Of a gauge with this unit, of any sign, and as small as it may be; None for a glitch."""
    amperes = reading / unit.parts
    return round(1e6 * amperes) if abs(amperes) < unit.most else None


def plausible_discharge(amperes: float) -> bool:
    """Whether a battery may give so much, on average, to a device that computes."""
    return _DISCHARGE.value(amperes) is not None


def _in_the_only_unit(reading: int, units: Sequence[Unit]) -> float | None:
    values = (unit.value(reading) for unit in units)
    return next((value for value in values if value is not None), None)
