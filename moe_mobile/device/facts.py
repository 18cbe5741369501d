# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a device is, from one shell script whose every source may be missing or denied."""

from __future__ import annotations

import re
import shlex

from moe_mobile.device.interface import Cluster, DeviceFacts
from moe_mobile.device.script_output import (
    MARK,
    MOST_CPUS,
    cpu_list,
    free_bytes,
    kibibytes,
    number,
    sections,
)
from moe_mobile.device.state import parse_thermal

_PROPERTIES = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.soc.manufacturer",
    "ro.soc.model",
    "ro.serialno",
    "ro.board.platform",
    "ro.product.cpu.abi",
    "ro.build.version.release",
    "ro.moe_mobile.virtual",
    "ro.moe_mobile.limit",
    "ro.boot.qemu",
    "ro.kernel.qemu",
    "ro.boot.qemu.avd_name",
    "ro.kernel.qemu.avd_name",
)
# Characters of a name. Longer ones are lies, and would be printed and kept in every row.
_MOST_TEXT = 200


def facts_script(folder: str) -> str:
    """The script; the file system of ``folder`` (or of what of it exists) holds bundles."""
    properties = " ".join(_PROPERTIES)
    return f"""
section() {{ echo "{MARK} $1"; }}
section props
command -v getprop >/dev/null && for p in {properties}; do echo "$p=$(getprop $p)"; done
section id
# cmd is much quicker than settings, which starts a virtual machine of its own.
command -v settings >/dev/null && {{ cmd settings get secure android_id 2>/dev/null ||
  settings get secure android_id; }}
section uname; uname -m
section meminfo; cat /proc/meminfo
section cpuinfo; cat /proc/cpuinfo
section online; cat /sys/devices/system/cpu/online
section clocks
value() {{ cat "$1" 2>/dev/null; }}
for c in /sys/devices/system/cpu/cpu[0-9]*; do
  echo "${{c##*/cpu}} $(value $c/cpufreq/cpuinfo_max_freq),$(value $c/cpu_capacity)"
done
section page; getconf PAGESIZE 2>/dev/null || grep -m1 KernelPageSize /proc/self/smaps
section thermal; command -v dumpsys >/dev/null && dumpsys thermalservice
section df
d={shlex.quote(folder)}; while [ ! -d "$d" ]; do d="${{d%/*}}"; [ -n "$d" ] || d=/; done; df -k "$d"
exit 0
"""


def parse_facts(text: str, *, serial: str, kind: str) -> DeviceFacts:
    """The facts in what :func:`facts_script` printed; None for what it could not tell."""
    found = sections(text)
    lines = found.get("props", "").splitlines()
    pairs = (line.partition("=")[::2] for line in lines if "=" in line)
    properties = {name: value[:_MOST_TEXT] for name, value in pairs}
    property_or_none = {name: properties.get(name) or None for name in _PROPERTIES}
    model = " ".join(filter(None, (properties.get(name) for name in _PROPERTIES[:2])))
    soc = " ".join(filter(None, (properties.get(name) for name in _PROPERTIES[2:4])))
    machine = found.get("uname", "").strip()[:_MOST_TEXT]
    processor = _processor(found.get("cpuinfo", "")) or machine
    return DeviceFacts(
        serial=serial,
        identity=_identity(properties, found.get("id", "").strip(), serial),
        kind=kind,
        model=model or processor,
        soc=soc or properties.get("ro.board.platform") or processor,
        abi=properties.get("ro.product.cpu.abi") or _abi(machine),
        android_version=property_or_none["ro.build.version.release"],
        ram_bytes=kibibytes(found.get("meminfo", ""), "MemTotal"),
        available_bytes=kibibytes(found.get("meminfo", ""), "MemAvailable"),
        free_bytes=free_bytes(found.get("df", "")),
        page_size=_page_size(found.get("page", "")),
        clusters=_clusters(found.get("clocks", ""), found.get("online", "")),
        thermal_status=parse_thermal(found.get("thermal", "")).status,
        virtual=properties.get("ro.moe_mobile.virtual") == "1",
        limit=property_or_none["ro.moe_mobile.limit"],
    )


def _identity(properties: dict[str, str], android_id: str, serial: str) -> str:
    """Emulators and cheap phones share serial numbers; what Android drew at its first start tells
    phones apart, and is the same over USB and Wi-Fi. Without it, adb's serial has to, and also for
    emulators, which share what was drawn too if they are of one image: better one phone counts as
    two than two as one."""
    serial_number = properties.get("ro.serialno") or serial
    drawn = re.fullmatch(r"[0-9a-f]{8,16}", android_id)
    parts = [serial_number, drawn[0] if drawn else serial]
    if _is_emulator(properties, serial_number, serial):
        names = (properties.get(f"ro.{part}.qemu.avd_name") for part in ("boot", "kernel"))
        parts += [*filter(None, names), serial]
    return " ".join(dict.fromkeys(parts))


def _is_emulator(properties: dict[str, str], serial_number: str, serial: str) -> bool:
    """Android's own, which others are made from. Its versions differ in what tells it."""
    return (
        "1" in (properties.get("ro.boot.qemu"), properties.get("ro.kernel.qemu"))
        or serial_number.startswith("EMULATOR")
        or serial.startswith("emulator-")
    )


def _processor(cpuinfo: str) -> str:
    """Its name; "" if the kernel gives none, as for most arm64."""
    for name in ("Hardware", "model name"):
        match = re.search(rf"^{name}[ \t]*:[ \t]*(\S.*)$", cpuinfo, re.MULTILINE)
        if match:
            return match[1][:_MOST_TEXT].strip()
    return ""


def _abi(machine: str) -> str:
    return {"aarch64": "arm64-v8a", "armv8l": "armeabi-v7a"}.get(machine, machine)


def _page_size(text: str) -> int | None:
    match = re.search(r"([0-9]{1,15})( kB)?", text)
    if match is None:
        return None
    return int(match[1]) * (1024 if match[2] else 1)


def _clusters(clocks: str, online: str) -> tuple[Cluster, ...]:
    """Cores that are online, grouped by their highest clock and their capacity."""
    awake = cpu_list(online)
    groups: dict[tuple[int | None, int | None], list[int]] = {}
    for line in clocks.splitlines():
        cpu, _, facts = line.partition(" ")
        clock, _, capacity = facts.partition(",")
        core = number(cpu.strip())
        if core in awake or (not awake and core is not None and 0 <= core < MOST_CPUS):
            kind = number(clock.strip()), number(capacity.strip())
            groups.setdefault(kind, []).append(core)
    slowest_first = sorted(groups, key=lambda kind: (kind[1] or 0, kind[0] or 0))
    return tuple(Cluster(tuple(sorted(groups[kind])), *kind) for kind in slowest_first)
