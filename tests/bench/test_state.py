# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Readings of dumps as Android 9, 11, 13 and 15 and laptops print them, whole and in parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.bench.sampler import parse_sample
from moe_mobile.device import units
from moe_mobile.device.local import LocalDevice
from moe_mobile.device.state import (
    Battery,
    parse_battery,
    parse_state,
    parse_supply,
    parse_thermal,
    read_state,
    zone_temperatures,
)
from moe_mobile.device.zones import measured_by

BATTERY_15 = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Dock powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3123000
  status: 2
  health: 2
  present: true
  level: 78
  scale: 100
  voltage: 4123
  temperature: 315
  technology: Li-ion
  Charging state: 1
  Charging policy: 1
"""

BATTERY_9 = """Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 0
  status: 3
  health: 2
  present: true
  level: 41
  scale: 100
  voltage: 3790
  temperature: 289
  technology: Li-ion
"""

# Some vendors add lines of their own.
BATTERY_VENDOR = """Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  status: 3
  level: 66
  scale: 100
  voltage: 3998
  temperature: 301
  current now: -286000
  Adaptive Fast Charging Settings: true
"""

THERMAL_15 = """IsStatusOverride: false
ThermalEventListeners:
	callbacks: 2
	killed: false
	broadcasts count: -1
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=91.0, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=44.5, mType=3, mName=VIRTUAL-SKIN, mStatus=2}
HAL Ready: true
HAL connection:
	ThermalHAL AIDL 2  connected: yes
Current temperatures from HAL:
	Temperature{mValue=41.2, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=47.9, mType=0, mName=CPU7, mStatus=0}
	Temperature{mValue=39.0, mType=1, mName=GPU, mStatus=0}
	Temperature{mValue=31.5, mType=2, mName=battery, mStatus=0}
	Temperature{mValue=36.25, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
	Temperature{mValue=NaN, mType=3, mName=skin2, mStatus=0}
	Temperature{mValue=-273.15, mType=0, mName=CPU9, mStatus=0}
	Temperature{mValue=87.0, mType=8, mName=soc, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
Temperature static thresholds from HAL:
	{.type = SKIN, .name = VIRTUAL-SKIN, .hotThrottlingThresholds = [NaN, 39.0, 43.0]}
"""

# Android 10 has no cached ones, Android 9 no service of that name.
THERMAL_10 = """ThermalEventListeners:
	callbacks: 0
ThermalStatusListeners:
	callbacks: 1
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=33.1, mType=3, mName=skin, mStatus=0}
HAL Ready: false
"""
THERMAL_9 = "Can't find service: thermalservice\n"

ZONES = """/sys/class/thermal/thermal_zone0/type:cpu-0-0-usr
/sys/class/thermal/thermal_zone1/type:cpu-1-7-usr
/sys/class/thermal/thermal_zone2/type:quiet-therm-adc
/sys/class/thermal/thermal_zone3/type:battery
/sys/class/thermal/thermal_zone4/type:gpuss-0-usr
/sys/class/thermal/thermal_zone0/temp:41200
/sys/class/thermal/thermal_zone1/temp:45000
/sys/class/thermal/thermal_zone2/temp:35250
/sys/class/thermal/thermal_zone3/temp:30000
/sys/class/thermal/thermal_zone4/temp:99000
"""

LAPTOP = """POWER_SUPPLY_NAME=AC
POWER_SUPPLY_TYPE=Mains
POWER_SUPPLY_ONLINE=0
POWER_SUPPLY_NAME=hidpp_battery_0
POWER_SUPPLY_SCOPE=Device
POWER_SUPPLY_CAPACITY=55
POWER_SUPPLY_STATUS=Discharging
POWER_SUPPLY_NAME=BAT0
POWER_SUPPLY_TYPE=Battery
POWER_SUPPLY_STATUS=Discharging
POWER_SUPPLY_VOLTAGE_NOW=11850000
POWER_SUPPLY_CURRENT_NOW=1402000
POWER_SUPPLY_CHARGE_NOW=3801000
POWER_SUPPLY_CAPACITY=78
"""


def test_batteries() -> None:
    assert parse_battery(BATTERY_15) == Battery(78, True, 31.5, 4123, None, 3123000)
    assert parse_battery(BATTERY_9) == Battery(41, False, 28.9, 3790, None, None)
    assert parse_battery(BATTERY_VENDOR) == Battery(66, False, 30.1, 3998, -286000, None)
    assert parse_battery("Can't find service: battery\n") == Battery()


@pytest.mark.parametrize(
    ("status", "charging"), [(1, None), (2, True), (3, False), (4, False), (5, True)]
)
def test_without_chargers_the_status_tells(status: int, charging: bool | None) -> None:
    assert parse_battery(f"  status: {status}\n").charging is charging


def test_a_full_battery_on_its_charger_is_charging() -> None:
    text = BATTERY_15.replace("status: 2", "status: 5").replace("level: 78", "level: 100")
    assert parse_battery(text).charging is True


def test_power_supplies_of_the_kernel() -> None:
    assert parse_supply(LAPTOP) == Battery(78, False, None, 11850, 1402000, 3801000)
    plugged = LAPTOP.replace("ONLINE=0", "ONLINE=1").replace("Discharging", "Not charging")
    assert parse_supply(plugged).charging is True
    assert parse_supply("POWER_SUPPLY_NAME=AC\nPOWER_SUPPLY_ONLINE=1\n") == Battery()
    assert parse_supply("") == Battery()


def test_the_temperatures_of_this_moment_count() -> None:
    thermal = parse_thermal(THERMAL_15)
    assert thermal.status == 2
    assert thermal.celsius == {"cpu": 47.9, "battery": 31.5, "skin": 36.25}
    assert parse_thermal(THERMAL_10).celsius == {"skin": 33.1}
    assert parse_thermal(THERMAL_10).status == 0
    assert parse_thermal(THERMAL_9) == parse_thermal("")
    assert parse_thermal("").status is None


def test_a_reading_uses_the_available_sources() -> None:
    text = (
        f"@@@ battery\n{BATTERY_15}@@@ thermal\n{THERMAL_15}@@@ supply\n"
        "POWER_SUPPLY_NAME=battery\nPOWER_SUPPLY_CAPACITY=77\nPOWER_SUPPLY_CURRENT_NOW=-512000\n"
        f"@@@ zones\n{ZONES}@@@ clocks\n"
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq:1804800\n"
        "/sys/devices/system/cpu/cpu7/cpufreq/scaling_cur_freq:3187200\n"
        "@@@ meminfo\nMemTotal:  11658000 kB\nMemAvailable:    5123456 kB\n"
        "@@@ engines\n2\n"
    )
    state = parse_state(text)
    assert state.as_dict() == {
        "cpu_c": 47.9, "skin_c": 36.25, "battery_c": 31.5, "thermal_status": 2,
        "clocks_khz": {"0": 1804800, "7": 3187200}, "battery_percent": 78, "charging": True,
        "battery_mv": 4123, "battery_ua": -512000, "battery_uah": 3123000,
        "mem_available_bytes": 5123456 * 1024, "engines": 2,
    }  # fmt: skip
    assert state.zones == {"cpu": (0, 1), "skin": (2,), "battery": (3,)}
    # Without Android's services, the kernel's zones.
    state = parse_state(f"@@@ zones\n{ZONES}")
    assert (state.cpu_c, state.skin_c, state.battery_c) == (45.0, 35.25, 30.0)
    assert state.has_temperature
    assert not parse_state("").has_temperature
    # Only chosen zones, without those that went away.
    assert zone_temperatures(ZONES, {"cpu": (0, 9), "skin": (8,)}) == {"cpu": 41.2}


@pytest.mark.parametrize(
    ("name", "reading", "celsius"),
    [
        ("mtktscpu", 85, 85.0),
        ("mtktscpu", 850, 85.0),
        ("cpu-0-0-usr", 85000, 85.0),
        ("cpu-0-0-usr", 124900, 124.9),  # a chip that shuts down soon
        ("cpu-0-0-usr", 1200, None),  # thousandths of a frost, or tenths of boiling
        ("cpu-0-0-usr", 0, None),
        ("cpu-0-0-usr", -40000, None),
        ("soc-thermal", 51000, 51.0),
        ("soc", 87, None),  # the battery's state of charge, in percent
        ("BIG", 61000, 61.0),
        ("tsens_tz_sensor5", 450, 45.0),
    ],
)
def test_zones_in_any_unit(name: str, reading: int, celsius: float | None) -> None:
    zone = "/sys/class/thermal/thermal_zone0"
    state = parse_state(f"@@@ zones\n{zone}/type:{name}\n{zone}/temp:{reading}\n")
    assert state.cpu_c == celsius


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "cpu",
            "cpu cpu0 cpu-0-0 cpu-1-7-usr cpu-0-0-lowf cpu-1-0-step cpuss cpuss-2-usr cpu_therm "
            "cpu-thermal cpu0-silver-usr cpu3-gold-usr apc1-cpu0-usr hepta-cpu-max-step mtktscpu "
            "soc_max soc-thermal soc_therm tsens_tz_sensor12 BIG MID LITTLE cluster0 "
            "bigcore0-thermal x86_pkg_temp",
        ),
        ("skin", "skin skin-therm skin-msm-therm VIRTUAL-SKIN quiet-therm-adc quiet_therm"),
        (
            "battery",
            "battery batt_therm batt-therm battery_temp bms mtktsbattery bat_therm main_battery",
        ),
        (
            None,
            "socd soc soc-bcl soc_ibat soc-vbat soc-step cpu-hotplug cpu-hotplug0 cpu0-cdev-state "
            "cpu-limits cpufreq-max cpu_voltage cpu-current cpu-bcl-lvl0 thermal-cpufreq-0 "
            "skin-limit battery_cycle bms-soc battery_current battery-soc batt_vbat vbat ibat "
            "pm8350b-bcl-lvl2 pmih010x-ibat-lvl0 gpuss-0-usr aoss-0 nspss-1 ddr max therm",
        ),
    ],
)
def test_only_known_names_of_zones_are_believed(kind: str | None, names: str) -> None:
    assert {name: measured_by(name) for name in names.split()} == dict.fromkeys(names.split(), kind)


@pytest.mark.parametrize(
    ("name", "reading"),
    [("skin-therm", 125000), ("battery", 90000), ("battery", 87), ("cpu-0-0", 151000),
     ("cpu-0-0", 125000), ("mtktscpu", 1250), ("mtktscpu", 125), ("cpu-0-0", 127000)],
)  # fmt: skip
def test_what_cannot_be_degrees_is_not_used(name: str, reading: int) -> None:
    zone = "/sys/class/thermal/thermal_zone0"
    text = f"@@@ zones\n{zone}/type:{name}\n{zone}/temp:{reading}\n"
    assert not parse_state(text).has_temperature


def test_batteries_in_any_unit() -> None:
    def told(text: str) -> Battery:
        lines = "".join(f"  {line}\n" for line in text.split(", "))
        return parse_battery(lines)

    finer = told("level: 50, voltage: 3900000, temperature: 31000, charge counter: 2500")
    usual = told("level: 50, voltage: 3900, temperature: 310, charge counter: 2500000")
    assert finer == usual == Battery(50, None, 31.0, 3900, None, 2_500_000)
    # Tenths of 6 degrees or 60 whole ones, of 4.9 or 49; whole volts.
    assert told("temperature: 60, voltage: 4") == told("temperature: 49") == Battery()


@pytest.mark.parametrize("level", ["5000", "-50", "101"])
def test_no_battery_holds_more_than_everything(level: str) -> None:
    assert parse_battery(f"  level: {level}\n  scale: 100\n").percent is None
    assert parse_battery("  level: 50\n  scale: -1\n").percent is None
    supply = f"POWER_SUPPLY_NAME=battery\nPOWER_SUPPLY_CAPACITY={level}\n"
    assert parse_supply(supply).percent is None


@pytest.mark.parametrize("status", [7, 99])
def test_a_thermal_status_that_android_does_not_have_is_unknown(status: int) -> None:
    assert parse_thermal(f"Thermal Status: {status}\n").status is None
    assert parse_thermal("Thermal Status: 6\n").status == 6


@pytest.mark.parametrize(
    ("kind", "reading"),
    [(3, 125.0), (3, -28.0), (3, 41200.0), (0, 0.0), (0, 125.0), (0, 150.0), (2, 87.0), (2, 350.0)],
)
def test_a_service_that_tells_no_degrees_leaves_the_zones(kind: int, reading: float) -> None:
    thermal = (
        "@@@ thermal\nCurrent temperatures from HAL:\n"
        f"\tTemperature{{mValue={reading}, mType={kind}, mName=x, mStatus=0}}\n"
    )
    assert not parse_state(thermal).has_temperature
    assert parse_state(f"{thermal}@@@ zones\n{ZONES}") == parse_state(f"@@@ zones\n{ZONES}")


@given(st.integers(-(10**9), 10**9))
def test_a_reading_has_one_meaning_or_none(reading: int) -> None:
    tables = [
        value for name, value in vars(units).items() if name.endswith(("_C", "_V", "_A", "_AH"))
    ]
    assert len(tables) == 7
    for table in tables:
        fitting = [one for one in table if one.least <= reading / one.parts < one.most]
        assert len(fitting) <= 1


def test_this_machine_can_be_read() -> None:
    state = read_state(LocalDevice())
    assert state.mem_available_bytes is not None
    assert state.mem_available_bytes > 0


@given(st.text(), st.text())
def test_nonsense_tells_nothing(text: str, more: str) -> None:
    state = parse_state(f"@@@ battery\n{text}\n@@@ thermal\n{more}")
    known = {name: value for name, value in state.as_dict().items() if value not in (None, {})}
    assert known == {}
    sample = parse_sample(text + "\n" + more, {"cpu": (0,)})
    assert set(sample.values()) == {None}
    assert parse_supply(text) == Battery()


def test_a_sample() -> None:
    kernel = (
        "4711 (moe (x) runner) R 1 4711 4711 0 -1 4194304 9001 0 37 0 150 20 0 0 20 0 3 0 1 2 3\n"
        "Name:\tmoe_runner\nVmSwap:\t      12 kB\nRssAnon:\t  204800 kB\nRssFile:\t    8192 kB\n"
        "00400000-7fff [rollup]\nRss:    212992 kB\nPss:    209000 kB\nPss_Anon:  1 kB\n"
        "POWER_SUPPLY_NAME=battery\nPOWER_SUPPLY_CAPACITY=77\nPOWER_SUPPLY_CURRENT_NOW=-512000\n"
    )
    zones = {"cpu": (0, 1), "battery": (3,)}
    sample = parse_sample(kernel + ZONES, zones)
    assert sample == {
        "pss": 209000 * 1024, "rss_anon": 204800 * 1024, "rss_file": 8192 * 1024,
        "swap": 12 * 1024, "major_faults": 37, "thermal_status": None, "cpu_c": 45.0,
        "skin_c": None, "battery_c": 30.0, "battery_ua": -512000, "battery_mv": None,
        "battery_uah": None,
    }  # fmt: skip
    services = f"@@@ battery\n{BATTERY_15}@@@ thermal\n{THERMAL_15}"
    sample = parse_sample(kernel + ZONES + services, zones)
    assert (sample["battery_uah"], sample["battery_mv"]) == (3123000, 4123)
    assert (sample["thermal_status"], sample["skin_c"]) == (2, 36.25)
