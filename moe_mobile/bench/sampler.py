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
from typing import Any

from moe_mobile.base import limits
from moe_mobile.base.pipes import LineReader, LineTooLongError
from moe_mobile.device.interface import Device
from moe_mobile.device.script_output import cpu_list, decoded, kibibytes, mask
from moe_mobile.device.state import parse_battery, parse_supply, parse_thermal, zone_temperatures
from moe_mobile.errors import DeviceError

INTERVAL_S = 0.5
"""Pause between two samples, in seconds."""

# Android's services are asked every so many rounds: each question wakes a system process.
_SERVICES_EVERY = 4
_FIRST_SECONDS = 5.0
_END = "@@@ end"
# A phone with a hundred zones prints some ten thousand bytes.
_MOST_BYTES = 1 << 20
_MORE_SAMPLES = 100
_ALLOWED = "Cpus_allowed_list:"
# What was printed last is read by then; it is at most a sample.
_LAST_SECONDS = 60.0
# The name may hold blanks and brackets: fields are counted from the last bracket.
_STAT = re.compile(r"[0-9]{1,15} \(.*\) \S(?: -?[0-9]{1,20}){8} ([0-9]{1,15}) ")

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
        self._serial = device.serial
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
        self._wrong: str | None = None
        assert self._process.stdout is not None
        self._lines = LineReader(self._process.stdout)
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()
        self._first.wait(_FIRST_SECONDS)

    def stop(self, began: float) -> list[dict[str, Any]]:
        """End sampling. The samples, with ``t_ms`` counted from ``began`` (time.monotonic())."""
        self._process.kill()
        self._process.wait()
        self._lines.close()
        self._thread.join(_LAST_SECONDS)
        if self._thread.is_alive():
            self._wrong = f"reading what it printed takes more than {_LAST_SECONDS:.0f} s"
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        return [
            {"t_ms": max(0.0, round(1000 * (at - began), 1)), **sample}
            for at, sample in list(self._samples)
        ]

    def check(self) -> None:
        """After :meth:`stop`: raise DeviceError if the device printed what no loop of ours does."""
        if self._wrong is not None:
            raise DeviceError(
                f"its readings during the measurement have no end: {self._wrong}",
                setting=self._serial,
                remedy="Check that the phone works normally, then measure again",
            )

    def _collect(self) -> None:
        """Until the loop ends, or what it prints cannot be its own."""
        try:
            self._read()
        except LineTooLongError:
            self._wrong = f"a line of more than {limits.LINE_BYTES} bytes"
        except ValueError:  # stopped
            pass
        self._first.set()  # it ended: there is nothing to wait for

    def _read(self) -> None:
        lines: list[str] = []
        size = 0
        while raw := self._lines.read(limits.LINE_BYTES):
            line = decoded(raw).rstrip("\n")
            if line.startswith(_ALLOWED):
                self.engine_cpus = sorted(cpu_list(line.removeprefix(_ALLOWED))) or None
            if line != _END:
                lines.append(line)
                size += len(raw)
                if size > _MOST_BYTES:
                    self._wrong = f"a sample of more than {_MOST_BYTES} bytes"
                    return
                continue
            now = time.monotonic()
            self._samples.append((now, parse_sample("\n".join(lines), self._zones)))
            lines.clear()
            size = 0
            self._first.set()
            # Samples that waited somewhere may come at once.
            rounds = (now - self._began) / INTERVAL_S
            if len(self._samples) > rounds + _MORE_SAMPLES:
                self._wrong = f"{len(self._samples)} samples in {rounds * INTERVAL_S:.1f} s"
                return


def parse_sample(text: str, zones: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """One round of the loop. Memory in bytes; None for what is missing or denied."""
    kernel, _, services = text.partition("@@@ battery\n")
    said, _, thermal_text = services.partition("@@@ thermal\n")
    # The kernel's figures are of this moment, those of Android's service of its last update.
    battery = parse_supply(kernel).or_else(parse_battery(said))
    thermal = parse_thermal(thermal_text)
    celsius = zone_temperatures(kernel, dict(zones)) | thermal.celsius

    stat = next(filter(None, map(_STAT.match, kernel.splitlines())), None)
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
