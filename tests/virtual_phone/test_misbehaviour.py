# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Phones that behave as real ones do on bad days."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import adbutils
import pytest

from moe_mobile.errors import DeviceError, UsageError
from moe_mobile.virtual_phone import Misbehaviour, PhoneSettings, VirtualPhone, start
from tests.phones import HOME, MEBIBYTE, StartPhone, adb, shell, wait_until


def state(phone: VirtualPhone) -> str:
    lines = [line.split() for line in adb("devices").stdout.splitlines()]
    return next((words[1] for words in lines if words and words[0] == phone.serial), "none")


def wait_for_state(phone: VirtualPhone, wanted: str) -> None:
    wait_until(lambda: state(phone) == wanted)


@pytest.fixture(scope="module")
def one(adb_server: int) -> Iterator[VirtualPhone]:
    """A phone whose tests end their misbehaviour."""
    phone = start(PhoneSettings())
    yield phone
    phone.stop()


def test_the_connection_is_cut_after_the_given_bytes(one: VirtualPhone, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(8 * MEBIBYTE))
    received = one.traffic()[0]
    one.misbehave(drop_after_received=3 * MEBIBYTE)
    assert adb("-s", one.serial, "push", tmp_path / "big", HOME).returncode != 0
    # adb reconnects by itself, so a little more may have come since.
    assert 3 * MEBIBYTE <= one.traffic()[0] - received < 4 * MEBIBYTE
    wait_for_state(one, "device")
    assert shell(one, f"ls {HOME}/big").returncode != 0
    assert adb("-s", one.serial, "push", tmp_path / "big", HOME).returncode == 0


def test_commands_keep_what_arrived_before_the_connection_broke(
    one: VirtualPhone, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(data := os.urandom(8 * MEBIBYTE))
    one.misbehave(drop_after_received=5 * MEBIBYTE)
    command = [adbutils.adb_path(), "-s", one.serial, "shell", "-T", f"cat >> {HOME}/part"]
    with (tmp_path / "big").open("rb") as file:
        assert subprocess.run(command, stdin=file, capture_output=True).returncode != 0
    wait_for_state(one, "device")
    kept = adb("-s", one.serial, "exec-out", f"cat {HOME}/part", text=False).stdout
    assert len(kept) > 2 * MEBIBYTE
    assert data.startswith(kept)  # type: ignore[arg-type]


def test_the_connection_breaks_again_if_asked(one: VirtualPhone) -> None:
    one.misbehave(drop_after_sent=2 * MEBIBYTE, drop_again=True)
    for _ in range(2):
        wait_for_state(one, "device")
        result = adb("-s", one.serial, "exec-out", "head -c 5000000 /dev/zero", text=False)
        assert len(result.stdout) < 5_000_000
    one.misbehave(drop_after_sent=0)
    wait_for_state(one, "device")
    result = adb("-s", one.serial, "exec-out", "head -c 5000000 /dev/zero", text=False)
    assert len(result.stdout) == 5_000_000


def test_a_full_phone_refuses_writes(phone: StartPhone, tmp_path: Path) -> None:
    one = phone(flash_size=64 * MEBIBYTE)
    (tmp_path / "file").write_bytes(bytes(MEBIBYTE))
    one.misbehave(full=True)
    result = adb("-s", one.serial, "push", tmp_path / "file", HOME)
    assert result.returncode != 0
    assert "No space left on device" in result.stdout + result.stderr
    written = shell(one, f"cat /system/bin/toybox > {HOME}/x")
    assert written.returncode != 0
    assert "No space left on device" in written.stderr
    one.misbehave(full=False)
    assert adb("-s", one.serial, "push", tmp_path / "file", HOME).returncode == 0
    (tmp_path / "big").write_bytes(bytes(80 * MEBIBYTE))
    assert adb("-s", one.serial, "push", tmp_path / "big", HOME).returncode != 0
    assert shell(one, f"ls {HOME}").stdout.split() == ["file", "x"]


def test_unauthorized_and_allowed_again(phone: StartPhone) -> None:
    one = phone(misbehaviour=Misbehaviour(unauthorized=True))
    wait_for_state(one, "unauthorized")
    one.misbehave(unauthorized=False)
    adb("disconnect", one.serial)
    assert "connected" in one.connect()
    wait_for_state(one, "device")


def test_offline_and_back(one: VirtualPhone) -> None:
    one.misbehave(offline=True)
    wait_for_state(one, "offline")
    assert shell(one, "true").returncode != 0
    one.misbehave(offline=False)
    wait_for_state(one, "device")


def test_reboot_kills_and_keeps_data(phone: StartPhone) -> None:
    rebooted = {how: phone() for how in ("owner", "adb", "inside")}
    for how, one in rebooted.items():  # all at once: each is away for a while
        shell(one, f"echo kept > {HOME}/file; sleep 1000 >/dev/null 2>&1 </dev/null &")
        one.misbehave(thermal_status=2)
        if how == "owner":
            one.misbehave(reboot=0.1)
        elif how == "adb":
            adb("-s", one.serial, "reboot")
        else:
            assert shell(one, "reboot").returncode != 0

    def is_back(phone: VirtualPhone) -> bool:
        return shell(phone, f"cat {HOME}/file; pgrep sleep").stdout == "kept\n"

    for one in rebooted.values():
        wait_until(functools.partial(is_back, one))
        assert "Thermal Status: 2" in shell(one, "dumpsys thermalservice").stdout


def test_heat_and_battery(one: VirtualPhone) -> None:
    clock = "cat /sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq | tail -n 1"
    heat = "for z in /sys/class/thermal/*; do echo $(cat $z/type $z/temp); done"

    def skin() -> int:
        zones = dict(line.split() for line in shell(one, heat).stdout.splitlines())
        return int(zones["skin-therm"])

    cool, fast = skin(), int(shell(one, clock).stdout)
    one.misbehave(thermal_status=3, battery_level=15, battery_temperature=41.5, charging=False)
    assert skin() > cool
    assert int(shell(one, clock).stdout) < fast
    dump = shell(one, "dumpsys thermalservice").stdout
    assert "Thermal Status: 3" in dump
    assert f"mValue={skin() / 1000:.1f}, mType=3" in dump
    battery = shell(one, "dumpsys battery").stdout
    for line in ("USB powered: false", "status: 3", "level: 15", "temperature: 415"):
        assert f"  {line}\n" in battery
    folder = "/sys/class/power_supply/battery"
    assert shell(one, f"cat {folder}/status").stdout == "Discharging\n"
    assert int(shell(one, f"cat {folder}/current_now").stdout) < 0
    one.misbehave(thermal_status=0)
    assert skin() == cool


def test_the_low_memory_killer(one: VirtualPhone) -> None:
    command = [adbutils.adb_path(), "-s", one.serial, "shell", "-T", "echo up; exec sleep 1000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        one.misbehave(kill="sleep")
        assert client.wait(1200) == 137
    assert "lowmemorykiller: Kill 'sleep' (" in shell(one, "logcat -d").stdout
    assert shell(one, "logcat -t 1").stdout == shell(one, "logcat -d").stdout
    assert shell(one, "logcat -c").returncode == 0
    assert shell(one, "logcat -d -t 5").stdout == ""
    for nonsense in ("-b all", "-t", "-t x", "*:E"):
        assert shell(one, f"logcat {nonsense}").returncode == 1
    with pytest.raises(DeviceError, match="no process"):
        one.misbehave(kill="nonsense")


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="thermal_status"):
        Misbehaviour(thermal_status=9)
    with pytest.raises(UsageError, match="name"):
        PhoneSettings(name="../x")


def test_names_are_unique(phone: StartPhone) -> None:
    phone(name="one")
    with pytest.raises(UsageError, match="there is already a virtual phone one"):
        start(PhoneSettings(name="one"))
