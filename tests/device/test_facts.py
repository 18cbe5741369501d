# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What devices report, in full, in part and not at all."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.base import limits
from moe_mobile.bench.sampler import parse_sample
from moe_mobile.device.deploy.inventory import parse_inventory
from moe_mobile.device.facts import parse_facts
from moe_mobile.device.interface import Cluster
from moe_mobile.device.local import LocalDevice
from moe_mobile.device.script_output import MOST_CPUS, cpu_list, decoded
from moe_mobile.device.state import Thermal, parse_state, parse_thermal

PHONE = """@@@ props
ro.product.manufacturer=Acme
ro.product.model=Phone 7
ro.soc.manufacturer=QTI
ro.soc.model=SM8650
ro.board.platform=pineapple
ro.product.cpu.abi=arm64-v8a
ro.build.version.release=15
ro.moe_mobile.virtual=
ro.moe_mobile.limit=
@@@ uname
aarch64
@@@ meminfo
MemTotal:       11602180 kB
MemFree:          402180 kB
MemAvailable:    6301444 kB
@@@ cpuinfo
processor\t: 0
BogoMIPS\t: 38.40
@@@ online
0-7
@@@ clocks
0 2265600
1 2265600
2 3148800
3 3148800
4 3148800
5 2956800
6 2956800
7 3302400
@@@ page
4096
@@@ thermal
IsStatusOverride: false
Thermal Status: 2
@@@ df
Filesystem       1K-blocks     Used Available Use% Mounted on
/dev/block/dm-52 230000000 80000000 149000000  35% /data/user/0
"""


def test_a_phone() -> None:
    facts = parse_facts(PHONE, serial="R5", kind="adb")
    assert (facts.model, facts.soc, facts.abi) == ("Acme Phone 7", "QTI SM8650", "arm64-v8a")
    assert (facts.android_version, facts.page_size, facts.thermal_status) == ("15", 4096, 2)
    assert facts.ram_bytes == 11602180 * 1024
    assert facts.available_bytes == 6301444 * 1024
    assert facts.free_bytes == 149000000 * 1024
    assert facts.clusters == (
        Cluster((0, 1), 2265600),
        Cluster((5, 6), 2956800),
        Cluster((2, 3, 4), 3148800),
        Cluster((7,), 3302400),
    )
    assert (facts.virtual, facts.limit) == (False, None)


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nBogoMIPS\t: 38.40\n", "aarch64"),
        ("model name\t: ARMv8 rev 4\nHardware\t: Acme SoC 9\n", "Acme SoC 9"),
        ("model name\t: \nmodel name\t: A processor\n", "A processor"),
    ],
)
def test_a_machine_without_properties_has_its_processors_name(cpuinfo: str, name: str) -> None:
    text = f"@@@ props\n@@@ uname\naarch64\n@@@ cpuinfo\n{cpuinfo}"
    facts = parse_facts(text, serial="local", kind="local")
    assert (facts.model, facts.soc) == (name, name)


@pytest.mark.parametrize(
    ("drawn", "by_usb", "by_wifi"),
    [
        ("9774d56d682e549c", "0123 9774d56d682e549c", "0123 9774d56d682e549c"),
        ("null", "0123", "0123 192.168.1.9:5555"),
        ("cmd: Can't find service: settings", "0123", "0123 192.168.1.9:5555"),
        ("", "0123", "0123 192.168.1.9:5555"),
    ],
)
def test_phones_with_one_serial_number_are_told_apart(
    drawn: str, by_usb: str, by_wifi: str
) -> None:
    text = f"@@@ props\nro.serialno=0123\n@@@ id\n{drawn}\n"
    for serial, identity in (("0123", by_usb), ("192.168.1.9:5555", by_wifi)):
        assert parse_facts(text, serial=serial, kind="adb").identity == identity


@pytest.mark.parametrize(
    ("properties", "serials"),
    [
        ("ro.serialno=EMULATOR36X1X9X0\n", ("emulator-5554", "emulator-5556")),
        ("ro.serialno=EMULATOR36X1X9X0\n", ("localhost:5555", "localhost:5557")),
        ("ro.serialno=\n", ("emulator-5554", "emulator-5556")),
        ("ro.serialno=0123\nro.boot.qemu=1\n", ("10.0.0.7:5555", "10.0.0.8:5555")),
        ("ro.serialno=0123\nro.kernel.qemu=1\n", ("10.0.0.7:5555", "10.0.0.8:5555")),
    ],
)
def test_emulators_of_one_image_are_told_apart(properties: str, serials: tuple[str, str]) -> None:
    """What their Android drew may be in the image, or in what read-only instances share."""
    text = f"@@@ props\n{properties}@@@ id\n9774d56d682e549c\n"
    facts = [parse_facts(text, serial=serial, kind="adb") for serial in serials]
    assert facts[0].identity != facts[1].identity
    assert facts[0].identity == parse_facts(text, serial=serials[0], kind="adb").identity


def test_copies_of_an_emulator_are_told_apart_by_name() -> None:
    """Also one after the other, at one port."""
    text = "@@@ props\nro.serialno=EMULATOR36X1X9X0\nro.boot.qemu.avd_name={}\n@@@ id\n97{:014}\n"
    names = {
        parse_facts(text.format(name, 0), serial="emulator-5554", kind="adb").identity
        for name in ("Pixel", "Copy")
    }
    assert len(names) == 2


def test_names_have_a_length() -> None:
    names = ("ro.product.model", "ro.soc.model", "ro.serialno", "ro.product.cpu.abi",
             "ro.build.version.release", "ro.moe_mobile.limit")  # fmt: skip
    properties = "".join(f"{name}={'Y' * 3_000_000}\n" for name in names)
    told = parse_facts(f"@@@ props\n{properties}", serial="R5", kind="adb")
    assert len(repr(told)) < 3000
    long = "Y" * 1_000_000
    text = f"@@@ props\n@@@ uname\n{long}\n@@@ cpuinfo\n"
    for cpuinfo in ("", f"model name\t: {long}\n"):
        assert len(repr(parse_facts(text + cpuinfo, serial="R5", kind="adb"))) < 3000


def test_cores_of_one_clock_may_differ_in_capacity() -> None:
    text = "@@@ online\n0-2\n@@@ clocks\n0 1989000,741\n1 1989000,1024\n2 1989000,741\n"
    assert parse_facts(text, serial="R5", kind="adb").clusters == (
        Cluster((0, 2), 1989000, 741),
        Cluster((1,), 1989000, 1024),
    )


def test_cores_that_sleep_do_not_count() -> None:
    facts = parse_facts(PHONE.replace("0-7", "0-1,7"), serial="R5", kind="adb")
    assert [cluster.cpus for cluster in facts.clusters] == [(0, 1), (7,)]


@given(st.lists(st.sampled_from(PHONE.splitlines(keepends=True))), st.text(max_size=20))
def test_any_part_may_be_missing(lines: list[str], noise: str) -> None:
    facts = parse_facts("".join(lines) + noise, serial="R5", kind="adb")
    assert facts.serial == "R5"
    assert facts.ram_bytes in (None, 11602180 * 1024)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16384", 16384),
        ("KernelPageSize:        4 kB", 4096),
        ("getconf: not found", None),
    ],
)
def test_page_sizes(text: str, expected: int | None) -> None:
    assert parse_facts(f"@@@ page\n{text}\n", serial="", kind="adb").page_size == expected


def test_this_machine() -> None:
    facts = LocalDevice().facts()
    assert facts.serial == facts.kind == "local"
    assert facts.page_size == os.sysconf("SC_PAGESIZE")
    assert facts.ram_bytes is not None
    assert facts.available_bytes is not None
    assert facts.ram_bytes >= facts.available_bytes > 0
    assert facts.free_bytes is not None
    assert facts.free_bytes > 0
    cpus = [cpu for cluster in facts.clusters for cpu in cluster.cpus]
    assert len(cpus) == len(set(cpus)) > 0


HOSTILE = st.sampled_from(
    [
        "9" * 400,
        "-" + "9" * 30,
        "\u00b2",
        "\u0661",
        "nan",
        "1e999",
        "0-99999999999",
        "\x1b]0;x\x07",
        " ",
        "",
    ]
)
SOURCES = (
    "@@@ meminfo\nMemTotal: {} kB\nMemAvailable: {} kB\n", "@@@ df\nx 1 2 {} 3% /\n",
    "@@@ page\n{}\n", "@@@ thermal\nThermal Status: {}\nTemperature{{mValue={}, mType={}, m\n",
    "@@@ clocks\n{} {}\ncpu{}/cpufreq/scaling_cur_freq:{}\n", "@@@ online\n{}\n",
    "@@@ battery\nlevel: {}\nscale: {}\ntemperature: {}\nstatus: {}\nvoltage: {}\n",
    "@@@ supply\nPOWER_SUPPLY_NAME=b\nPOWER_SUPPLY_CAPACITY={}\nPOWER_SUPPLY_TEMP={}\n",
    "@@@ zones\n/x/thermal_zone{}/type:cpu\n/x/thermal_zone{}/temp:{}\n",
    "1 (a) S 1 2 3 4 5 6 7 {} {} 9\nPss: {} kB\n", "@@@ files\n{} {} bundles/a/b\n",
    "@@@ sums bundles/a\n" + "a" * 64 + " {} {} b\n",
)  # fmt: skip


@given(st.lists(st.sampled_from(SOURCES)), st.data())
def test_whatever_a_device_prints_is_read(sources: list[str], data: st.DataObject) -> None:
    parts = "".join(sources).split("{}")
    values = [data.draw(HOSTILE) for _ in parts]
    text = decoded("".join(map("".join, zip(parts, values, strict=True))).encode())
    assert "\x1b" not in text
    facts = parse_facts(text, serial="R5", kind="adb")
    assert all(cpu >= 0 for cluster in facts.clusters for cpu in cluster.cpus)
    state = parse_state(text)
    assert state.cpu_c is None or -30 < state.cpu_c < 150
    assert parse_sample(text, {"cpu": (0, 1)}).keys() == parse_sample("", {}).keys()
    with contextlib.suppress(ValueError):
        assert parse_inventory(text).free_bytes >= 0


# Text that takes ages if any of it is looked at again and again.
FLOODS = ("\n", " ", "1", "0-4096,", "Temperature{mValue=", "Thermal Status:", "1 (a) ", "1 (\n",
          "thermal_zone1/temp:1", "thermal_zone1/temp:1\n", "thermal_zone1/type:cpu\n", "Pss:\n",
          "POWER_SUPPLY_NAME=", "\nPOWER_SUPPLY_NAME=", "@@@ a\n", "a: ", "1 1 1 ",
          "cpu0/cpufreq/scaling_cur_freq:1", "0 1,1\n")  # fmt: skip
MARKS = ("meminfo", "df", "page", "thermal", "clocks", "online", "battery", "supply", "zones")


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_takes_as_long_as_it_is(flood: str) -> None:
    """With work that grows with the square of the size, this would not end within a day."""
    text = flood * (limits.OUTPUT_BYTES // len(flood))
    part = text[: len(text) // len(MARKS)]
    everything = "".join(f"@@@ {mark}\n{part}\n" for mark in MARKS)
    parse_facts(everything, serial="R5", kind="adb")
    parse_state(everything)
    assert parse_thermal(text) == Thermal()
    assert parse_sample(text[: 1 << 20], {"cpu": (0, 1)})["pss"] is None
    assert len(cpu_list(text)) <= MOST_CPUS


def test_cores_are_named_once() -> None:
    assert cpu_list("0-3,6") == {0, 1, 2, 3, 6}
    assert cpu_list("4094-5000000,7") == {4094, 4095, 7}
    assert cpu_list("0-4095,0-4095") == set(range(MOST_CPUS))
    text = "@@@ clocks\n123456789012345 1000,\n3 1000,\n"
    (cluster,) = parse_facts(text, serial="R5", kind="adb").clusters
    assert cluster.cpus == (3,)


def test_zones_that_are_made_up_are_not_asked_for() -> None:
    lines = "".join(f"/x/thermal_zone{zone}/type:cpu\n" for zone in range(100_000))
    assert len(parse_state(f"@@@ zones\n{lines}").zones["cpu"]) <= 1024
