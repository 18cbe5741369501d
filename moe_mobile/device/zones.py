# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the kernel's thermal zones measure, by the names that vendors give them.

Vendors make zones of all that can be too much: a battery's charge or current, a limit of the power
management, a state of a cooling device. Only a name all of whose words are known is believed; any
other zone counts as none.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z]+")

# Words of which one says where a sensor is. `soc` may be a state of charge as well: it counts as
# the chip only beside one of the words of places below.
_CPU = {
    "cpu", "cpus", "cpuss", "mtktscpu", "tsens", "coretemp", "big", "mid", "little", "cluster",
    "bigcore", "midcore", "littlecore",
}  # fmt: skip
_SKIN = {"skin", "shell", "mtktsskin"}
_BATTERY = {"battery", "batt", "bat", "bms", "mtktsbattery"}
# Others may stand beside them.
_SENSOR = {"therm", "thermal", "temp", "temperature", "tz", "zone", "sensor", "ntc", "adc", "usr"}
_CORES = {
    "lowf", "step", "max", "silver", "silv", "gold", "goldplus", "prime", "titanium", "core",
    "cores", "apc", "top", "bottom", "left", "right", "center", "hepta", "penta", "dual", "hw",
    "iso", "avg", "die", "pkg", "package", "soc",
}  # fmt: skip
_OUTSIDE = {"virtual", "quiet", "msm", "front", "back", "rear", "frame", "main", "sub", "max"}
_PACK = {"main", "sub", "pack", "cell"}

# Of computers: Intel's package, AMD's die.
_WHOLE_NAMES = {"x86_pkg_temp": "cpu", "k10temp": "cpu"}


def measured_by(zone: str) -> str | None:
    """ "cpu", "skin" or "battery"; None for what is something else, or not known to be one."""
    name = zone.lower()
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name]
    words = set(_WORD.findall(name))
    if words & _SKIN and words <= _SKIN | _OUTSIDE | _SENSOR:
        return "skin"
    if {"quiet", "therm"} <= words <= _OUTSIDE | _SENSOR:
        return "skin"
    if words & _BATTERY and words <= _BATTERY | _PACK | _SENSOR:
        return "battery"
    cores = words & _CPU or ("soc" in words and words & (_CORES | _SENSOR) - {"soc", "step"})
    return "cpu" if cores and words <= _CPU | _CORES | _SENSOR else None
