# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a phone's hardware says of itself: cores, clocks, temperatures, battery."""

from __future__ import annotations

import os
from dataclasses import dataclass

_MAX_KHZ = {"little": 1_800_000, "big": 2_800_000}
_MIN_KHZ = 300_000
_SKIN_C = (33.5, 39.5, 41.5, 43.5, 46.0, 51.0, 56.0)
_CPU_ABOVE_SKIN_C = (9.0, 22.0, 30.0, 36.0, 42.0, 46.0, 50.0)
_CLOCK_SHARE = (1.0, 0.9, 0.75, 0.6, 0.45, 0.3, 0.2)
_TYPE_CPU, _TYPE_BATTERY, _TYPE_SKIN = 0, 2, 3
_CAPACITY_UAH = 4_500_000
_DISCHARGE_UA = -350_000
_CHARGE_UA = 900_000


def clusters() -> dict[str, list[int]]:
    """This machine's cores that we may use, the upper half of them as the big ones."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return {"little": cores[:half], "big": cores[half:]} if half else {"big": cores}


@dataclass
class Hardware:
    """Writes the files that simulate the hardware below a phone's root.

    Args:
        root_fd: descriptor of that folder, through which it can be written.
    """

    root_fd: int
    thermal_status: int = 0
    battery_level: int = 87
    battery_c: float = 29.5
    charging: bool = True

    def write_cpus(self, *, arm64: bool) -> None:
        """/sys/devices/system/cpu, and the processors a phone's /proc/cpuinfo lists."""
        base = "sys/devices/system/cpu"
        cores = sorted(os.sched_getaffinity(0))
        for name in ("possible", "present", "online"):
            self._write(f"{base}/{name}", _ranges(cores))
        for number, (cluster, members) in enumerate(clusters().items()):
            policy = f"{base}/cpufreq/policy{members[0]}"
            self._write(f"{policy}/related_cpus", " ".join(map(str, members)))
            for core in members:
                self._write(f"{base}/cpu{core}/online", "1")
                self._write(f"{base}/cpu{core}/topology/physical_package_id", str(number))
                self._write(f"{base}/cpu{core}/topology/cluster_cpus_list", _ranges(members))
                self._write(f"{base}/cpu{core}/topology/core_siblings_list", _ranges(members))
                capacity = 1024 * _MAX_KHZ[cluster] // _MAX_KHZ["big"]
                self._write(f"{base}/cpu{core}/cpu_capacity", str(capacity))
            for folder in (policy, *(f"{base}/cpu{core}/cpufreq" for core in members)):
                self._write(f"{folder}/cpuinfo_min_freq", str(_MIN_KHZ))
                self._write(f"{folder}/cpuinfo_max_freq", str(_MAX_KHZ[cluster]))
                self._write(f"{folder}/related_cpus", " ".join(map(str, members)))
                self._write(f"{folder}/scaling_governor", "schedutil")
        if arm64:
            listing = "".join(_ARM64_CPU.format(core=core) for core in cores)
            self._write("virtual/cpuinfo", listing)
        self.update()

    def update(self) -> None:
        """Clocks, temperatures and the battery as they are now."""
        for cluster, members in clusters().items():
            khz = int(_MAX_KHZ[cluster] * _CLOCK_SHARE[self.thermal_status])
            base = "sys/devices/system/cpu"
            for folder in (
                f"{base}/cpufreq/policy{members[0]}",
                *(f"{base}/cpu{core}/cpufreq" for core in members),
            ):
                self._write(f"{folder}/scaling_max_freq", str(khz))
                self._write(f"{folder}/scaling_cur_freq", str(khz))
        self._update_thermal()
        self._update_battery()

    def _update_thermal(self) -> None:
        status = self.thermal_status
        skin = _SKIN_C[status]
        cpu = skin + _CPU_ABOVE_SKIN_C[status]
        sensors = [
            (f"CPU{number}", f"cpu-{number}-0", _TYPE_CPU, cpu)
            for number in range(len(os.sched_getaffinity(0)))
        ]
        sensors.append(("skin", "skin-therm", _TYPE_SKIN, skin))
        sensors.append(("battery", "battery", _TYPE_BATTERY, self.battery_c))
        lines = []
        for number, (name, zone, kind, celsius) in enumerate(sensors):
            folder = f"sys/class/thermal/thermal_zone{number}"
            self._write(f"{folder}/type", zone)
            self._write(f"{folder}/temp", str(round(celsius * 1000)))
            of_sensor = status if kind == _TYPE_SKIN else 0
            lines.append(
                f"\tTemperature{{mValue={celsius:.1f}, mType={kind}, mName={name}, "
                f"mStatus={of_sensor}}}\n"
            )
        readings = "".join(lines)
        limits = ", ".join(["NaN", *(f"{celsius - 0.5:.1f}" for celsius in _SKIN_C[1:])])
        self._write(
            "virtual/thermalservice",
            "IsStatusOverride: false\nThermalEventListeners:\n\tcallbacks: 0\n\tkilled: false\n"
            "\tbroadcasts count: -1\nThermalStatusListeners:\n\tcallbacks: 0\n\tkilled: false\n"
            f"\tbroadcasts count: -1\nThermal Status: {status}\nCached temperatures:\n{readings}"
            "HAL Ready: true\nHAL connection:\n\tThermalHAL AIDL 1  connected: yes\n"
            f"Current temperatures from HAL:\n{readings}Current cooling devices from HAL:\n"
            "Temperature static thresholds from HAL:\n"
            f"\tTemperatureThreshold{{mType={_TYPE_SKIN}, mName=skin, "
            f"mHotThrottlingThresholds=[{limits}], mColdThrottlingThresholds=[NaN, NaN, NaN, NaN, "
            "NaN, NaN, NaN]}",
        )

    def _update_battery(self) -> None:
        millivolts = 3400 + 10 * self.battery_level
        counter = _CAPACITY_UAH * self.battery_level // 100
        full = self.battery_level == 100
        powered = str(self.charging).lower()
        status = (5 if full else 2) if self.charging else 3
        word = ("Full" if full else "Charging") if self.charging else "Discharging"
        current = (0 if full else _CHARGE_UA) if self.charging else _DISCHARGE_UA
        tenths = round(self.battery_c * 10)
        self._write(
            "virtual/battery",
            "Current Battery Service state:\n  AC powered: false\n"
            f"  USB powered: {powered}\n  Wireless powered: false\n  Dock powered: false\n"
            "  Max charging current: 500000\n  Max charging voltage: 5000000\n"
            f"  Charge counter: {counter}\n  status: {status}\n  health: 2\n  present: true\n"
            f"  level: {self.battery_level}\n  scale: 100\n  voltage: {millivolts}\n"
            f"  temperature: {tenths}\n  technology: Li-ion",
        )
        folder = "sys/class/power_supply/battery"
        for name, value in {
            "type": "Battery",
            "present": 1,
            "status": word,
            "health": "Good",
            "technology": "Li-ion",
            "capacity": self.battery_level,
            "temp": tenths,
            "voltage_now": millivolts * 1000,
            "current_now": current,
            "charge_counter": counter,
        }.items():
            self._write(f"{folder}/{name}", str(value))
        self._write("sys/class/power_supply/usb/online", str(int(self.charging)))

    def _write(self, name: str, text: str) -> None:
        """Replace a file's text; who reads it meanwhile sees the old or the new."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            file = os.open(name, flags, 0o644, dir_fd=self.root_fd)
        except FileNotFoundError:
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                try:
                    os.mkdir("/".join(parts[:depth]), 0o755, dir_fd=self.root_fd)
                except FileExistsError:
                    continue
            file = os.open(name, flags, 0o644, dir_fd=self.root_fd)
        try:
            data = text.encode() + b"\n"
            os.pwrite(file, data, 0)
            os.ftruncate(file, len(data))
        finally:
            os.close(file)


_ARM64_CPU = """processor\t: {core}
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd46
CPU revision\t: 0

"""


def _ranges(numbers: list[int]) -> str:
    """0-3,6: the kernel's way to write a list of cores."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
