# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Samples a running engine: its memory as the kernel counts it, the battery, temperatures.

One shell loop on the device, three small processes a round. `docs/measuring-on-phones.md` has what
that costs.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Collection, Mapping
from typing import IO, Any

from moe_mobile.device.interface import Device
from moe_mobile.device.script_output import cpu_list, decoded, kibibytes, mask
from moe_mobile.device.state import parse_battery, parse_supply, parse_thermal, zone_temperatures

INTERVAL_S = 0.5
"""Pause between two samples, in seconds."""

# Android's services are asked every so many rounds: each question wakes a system process.
_SERVICES_EVERY = 4
_FIRST_SECONDS = 5.0
_END = "@@@ end"
_MOST_LINES = 10_000
_ALLOWED = "Cpus_allowed_list:"

_SCRIPT = """
exec 2>/dev/null
{pin}
n=0
services=$(command -v dumpsys)
while [ -d /proc/{pid} ]; do
  cat /proc/{pid}/stat /proc/{pid}/status /proc/{pid}/smaps_rollup /sys/class/power_supply/*/uevent
  {zones}
  if [ -n "$services" ] && [ $((n % {every})) -eq 0 ]; then
    echo "@@@ battery"; dumpsys battery; echo "@@@ thermal"; dumpsys thermalservice
  fi
  echo "{end}"
  n=$((n + 1))
  sleep {interval} </dev/null >/dev/null  # else the pipe outlives the loop by a pause
done
"""


class Sampler:
    """Samples the process ``pid`` of a device from construction until :meth:`stop`.

    The first sample is there when it is made, so that starting it disturbs no measurement. It runs
    on ``cpus``, if any are given. Raises DeviceError if the device is lost.

    ``engine_cpus``: the cores that the kernel let the process run on, as last seen; None: unknown.
    """

    def __init__(
        self,
        device: Device,
        pid: int,
        zones: Mapping[str, tuple[int, ...]],
        cpus: Collection[int] = (),
    ) -> None:
        self.engine_cpus: list[int] | None = None
        self._zones = dict(zones)
        members = [zone for found in zones.values() for zone in found]
        files = " ".join(f"/sys/class/thermal/thermal_zone{zone}/temp" for zone in members)
        self._process = device.stream(
            _SCRIPT.format(
                pid=pid,
                pin=f"taskset -p {mask(cpus)} $$ >/dev/null" if cpus else ":",
                zones=f"grep . {files} /dev/null" if files else ":",
                every=_SERVICES_EVERY,
                end=_END,
                interval=INTERVAL_S,
            )
        )
        self._samples: list[tuple[float, dict[str, Any]]] = []
        self._first = threading.Event()
        assert self._process.stdout is not None
        self._thread = threading.Thread(
            target=self._collect, args=(self._process.stdout,), daemon=True
        )
        self._thread.start()
        self._first.wait(_FIRST_SECONDS)

    def stop(self, began: float) -> list[dict[str, Any]]:
        """End sampling. The samples, with ``t_ms`` counted from ``began`` (time.monotonic())."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return [
            {"t_ms": max(0.0, round(1000 * (at - began), 1)), **sample}
            for at, sample in self._samples
        ]

    def _collect(self, stream: IO[bytes]) -> None:
        lines: list[str] = []
        for raw in stream:
            line = decoded(raw).rstrip("\n")
            if line.startswith(_ALLOWED):
                self.engine_cpus = sorted(cpu_list(line.removeprefix(_ALLOWED))) or None
            if line == _END:
                self._samples.append(
                    (time.monotonic(), parse_sample("\n".join(lines), self._zones))
                )
                lines.clear()
                self._first.set()
            elif len(lines) < _MOST_LINES:
                lines.append(line)
        self._first.set()  # it ended: there is nothing to wait for


def parse_sample(text: str, zones: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """One round of the loop. Memory in bytes; None for what is missing or denied."""
    kernel, _, services = text.partition("@@@ battery\n")
    said, _, thermal_text = services.partition("@@@ thermal\n")
    # The kernel's figures are of this moment, those of Android's service of its last update.
    battery = parse_supply(kernel).or_else(parse_battery(said))
    thermal = parse_thermal(thermal_text)
    celsius = zone_temperatures(kernel, dict(zones)) | thermal.celsius

    # The name may hold blanks and brackets: fields are counted from the last bracket.
    stat = re.search(r"^\d+ \(.*\) \S(?: -?\d+){8} (\d{1,15}) ", kernel, re.MULTILINE | re.ASCII)
    return {
        "pss": kibibytes(kernel, "Pss"),
        "rss_anon": kibibytes(kernel, "RssAnon"),
        "rss_file": kibibytes(kernel, "RssFile"),
        "swap": kibibytes(kernel, "VmSwap"),
        "major_faults": int(stat[1]) if stat else None,
        "thermal_status": thermal.status,
        "cpu_c": celsius.get("cpu"),
        "skin_c": celsius.get("skin"),
        "battery_c": battery.celsius if battery.celsius is not None else celsius.get("battery"),
        "battery_ua": battery.microamperes,
        "battery_mv": battery.millivolts,
        "battery_uah": battery.microampere_hours,
    }
