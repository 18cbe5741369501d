# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What state a device is in: temperatures, clocks, battery, free memory, from one shell script.

Every source may be missing, or denied to the shell user; what no source gives is None. Formats: the
dumps of Android's BatteryService and ThermalManagerService, and the kernel's
Documentation/ABI/testing/sysfs-class-{power,thermal} and cpufreq pages.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any, TypeVar

from moe_mobile.device import units
from moe_mobile.device.interface import Device
from moe_mobile.device.script_output import MARK, kibibytes, number, sections
from moe_mobile.device.zones import measured_by

THERMAL_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Names of Android's thermal statuses 0 to 6 (``PowerManager.THERMAL_STATUS_...``)."""

# mType of Android's android.os.Temperature.
_TYPES = {0: "cpu", 2: "battery", 3: "skin"}
_STATUS = re.compile(r"[ \t]*Thermal Status:[ \t]*([0-9]{1,15})")
_TEMPERATURE = re.compile(r"Temperature\{mValue=([^,\n]{1,32}), mType=(-?[0-9]{1,15}),")
_ZONE_TYPE = re.compile(r"thermal_zone([0-9]{1,15})/type:(\S{1,64})$", re.MULTILINE)
_ZONE_TEMP = re.compile(r"thermal_zone([0-9]{1,15})/temp:(-?[0-9]{1,15})[ \t]*$", re.MULTILINE)
# Some phones have a hundred; a device that lists more makes them up.
_MOST_ZONES = 1024
_CELSIUS = {
    "cpu": units.zone_celsius,
    "skin": units.skin_celsius,
    "battery": units.battery_zone_celsius,
}

# One process per source, however many sensors: some phones have a hundred zones.
_SCRIPT = f"""
exec 2>/dev/null
section() {{ echo "{MARK} $1"; }}
if command -v dumpsys >/dev/null; then
section battery; dumpsys battery
section thermal; dumpsys thermalservice
fi
section supply; cat /sys/class/power_supply/*/uevent
section zones
grep . /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp /dev/null
section clocks; grep . /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq /dev/null
section meminfo; cat /proc/meminfo
section engines; grep -lx moe_runner /proc/[0-9]*/comm | wc -l
exit 0
"""


@dataclasses.dataclass(frozen=True)
class Battery:
    """A battery: percent, °C, millivolts, microampere hours left. ``charging``: whether any charger
    supplies power, also if it is full. ``microamperes`` are the gauge's own reading, with the
    vendor's sign; only many readings show whether it counts milliamperes (units.py)."""

    percent: int | None = None
    charging: bool | None = None
    celsius: float | None = None
    millivolts: int | None = None
    microamperes: int | None = None
    microampere_hours: int | None = None

    def or_else(self, other: Battery) -> Battery:
        """This, with missing values taken from another source."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return Battery(**{k: theirs[k] if v is None else v for k, v in mine.items()})


@dataclasses.dataclass(frozen=True)
class Thermal:
    """Thermal status 0 (none) to 6 (shutdown), and the hottest sensor of each kind in °C."""

    status: int | None = None
    celsius: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DeviceState:
    """A reading. Temperatures in °C, clocks in kHz by core number.

    Attributes:
        engines: processes called ``moe_runner``.
        zones: thermal zones of the kernel that are read by the name of what they measure:
            ``{"cpu": (0, 3), ...}``.
    """

    cpu_c: float | None
    skin_c: float | None
    battery_c: float | None
    thermal_status: int | None
    clocks_khz: dict[str, int]
    battery_percent: int | None
    charging: bool | None
    battery_mv: int | None
    battery_ua: int | None
    battery_uah: int | None
    mem_available_bytes: int | None
    engines: int | None
    zones: dict[str, tuple[int, ...]]

    @property
    def has_temperature(self) -> bool:
        """Whether anything is known of how warm it is."""
        return (self.cpu_c, self.skin_c, self.battery_c, self.thermal_status) != (None,) * 4

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready object, as results have it."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "zones"}


def read_state(device: Device) -> DeviceState:
    """One reading, by one script. Raises DeviceError if the device is lost."""
    return parse_state(device.shell(_SCRIPT, timeout=30).stdout)


def parse_state(text: str) -> DeviceState:
    """The reading in what the script printed."""
    found = sections(text)
    # Android's service knows best; the kernel knows the current too.
    battery = parse_battery(found.get("battery", "")).or_else(parse_supply(found.get("supply", "")))
    thermal = parse_thermal(found.get("thermal", ""))
    zones = _zones(found.get("zones", ""))
    celsius = zone_temperatures(found.get("zones", ""), zones) | thermal.celsius
    return DeviceState(
        cpu_c=celsius.get("cpu"),
        skin_c=celsius.get("skin"),
        battery_c=battery.celsius if battery.celsius is not None else celsius.get("battery"),
        thermal_status=thermal.status,
        clocks_khz={
            core: int(khz)
            for core, khz in re.findall(
                r"cpu([0-9]{1,15})/cpufreq/scaling_cur_freq:([0-9]{1,15})", found.get("clocks", "")
            )
        },
        battery_percent=battery.percent,
        charging=battery.charging,
        battery_mv=battery.millivolts,
        battery_ua=battery.microamperes,
        battery_uah=battery.microampere_hours,
        mem_available_bytes=kibibytes(found.get("meminfo", ""), "MemAvailable"),
        engines=number(found.get("engines", "").strip()),
        zones=zones,
    )


def parse_battery(text: str) -> Battery:
    """What ``dumpsys battery`` printed."""
    values = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }

    powered = [value for name, value in values.items() if name.endswith(" powered")]
    status = number(values.get("status", ""))
    charging: bool | None = None
    if powered:
        charging = "true" in powered
    elif status is not None and status > 1:  # 1: unknown
        charging = status in (2, 5)
    level, scale = number(values.get("level", "")), number(values.get("scale", "")) or 100
    return Battery(
        percent=None if level is None else _percent(round(100 * level / scale)),
        charging=charging,
        celsius=_known(units.battery_celsius, values.get("temperature", "")),
        millivolts=_known(units.millivolts, values.get("voltage", "")),
        microamperes=number(values.get("current now", "")),
        # If the hardware has none, the service prints 0 or the least integer.
        microampere_hours=_known(units.microampere_hours, values.get("charge counter", "")),
    )


def parse_supply(text: str) -> Battery:
    """What the ``uevent`` files of the kernel's power supplies hold, one after the other."""
    chosen: dict[str, str] = {}
    online = False
    for part in re.split(r"^(?=POWER_SUPPLY_NAME=)", text, flags=re.MULTILINE):
        values = dict(re.findall(r"^POWER_SUPPLY_(\w+)=(.*)$", part, re.MULTILINE))
        # A mouse or a pen has a battery too, with scope "Device".
        if "CAPACITY" in values and values.get("SCOPE") != "Device" and not chosen:
            chosen = values
        elif values.get("ONLINE") == "1":
            online = True

    if not chosen:
        return Battery()
    status = chosen.get("STATUS")
    return Battery(
        percent=_known(_percent, chosen.get("CAPACITY", "")),
        charging=None if status in (None, "Unknown") else online or status in ("Charging", "Full"),
        celsius=_known(units.battery_celsius, chosen.get("TEMP", "")),
        millivolts=_known(units.millivolts, chosen.get("VOLTAGE_NOW", "")),
        microamperes=number(chosen.get("CURRENT_NOW", "")),
        microampere_hours=_known(
            units.microampere_hours, chosen.get("CHARGE_COUNTER", chosen.get("CHARGE_NOW", ""))
        ),
    )


def parse_thermal(text: str) -> Thermal:
    """What ``dumpsys thermalservice`` printed.

    It lists what it saw last and, since Android 10, what the hardware says now: that counts.
    """
    found = next(filter(None, map(_STATUS.match, text.splitlines())), None)
    status = int(found[1]) if found and int(found[1]) < len(THERMAL_STATUSES) else None
    _, _, current = text.partition("Current temperatures from HAL:")
    current = current.partition("Current cooling devices")[0]
    celsius: dict[str, float] = {}
    for value, kind in _TEMPERATURE.findall(current or text):
        name = _TYPES.get(int(kind))
        degrees = None if name is None else _degrees(name, value)
        if name is not None and degrees is not None:
            celsius[name] = max(degrees, celsius.get(name, degrees))
    return Thermal(status, celsius)


def zone_temperatures(text: str, zones: dict[str, tuple[int, ...]]) -> dict[str, float]:
    """The hottest zone of each kind, in lines ``.../thermal_zone3/temp:41200``."""
    read = {int(zone): int(value) for zone, value in _ZONE_TEMP.findall(text)}
    found = {
        kind: [_CELSIUS[kind](read[zone]) for zone in members if zone in read]
        for kind, members in zones.items()
    }
    known = {kind: [v for v in values if v is not None] for kind, values in found.items()}
    return {kind: max(values) for kind, values in known.items() if values}


def _zones(text: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for match in itertools.islice(_ZONE_TYPE.finditer(text), _MOST_ZONES):
        kind = measured_by(match[2])
        if kind is not None:
            found.setdefault(kind, []).append(int(match[1]))
    return {kind: tuple(sorted(members)) for kind, members in found.items()}


def _degrees(kind: str, text: str) -> float | None:
    try:
        return units.plausible(kind, float(text))
    except ValueError:
        return None


def _percent(value: int) -> int | None:
    return value if 0 <= value <= 100 else None


_Number = TypeVar("_Number", int, float)


def _known(unit: Callable[[int], _Number | None], text: str) -> _Number | None:
    reading = number(text)
    return None if reading is None else unit(reading)
