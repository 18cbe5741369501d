# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Virtual phones through the real adb client and adbutils."""

from __future__ import annotations

import filecmp
import os
import signal
import subprocess
from pathlib import Path

import adbutils
import pytest

from moe_mobile.virtual_phone import VirtualPhone
from tests.phones import HOME, MEBIBYTE, StartPhone, adb, runs, shell


def test_it_is_listed(shared_phone: VirtualPhone) -> None:
    lines = adb("devices", "-l").stdout.splitlines()
    (line,) = [line for line in lines if shared_phone.serial in line]
    assert line.split()[1:3] == ["device", "product:virtual_phone"]


@pytest.mark.parametrize(
    ("script", "code"),
    [("true", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("nonsense", 127)],
)
def test_exit_codes(shared_phone: VirtualPhone, script: str, code: int) -> None:
    assert shell(shared_phone, script).returncode == code


def test_streams_are_kept_apart(shared_phone: VirtualPhone) -> None:
    result = shell(shared_phone, "cat; echo out; echo err >&2", input="in\n")
    assert (result.stdout, result.stderr) == ("in\nout\n", "err\n")


def test_a_terminal(shared_phone: VirtualPhone) -> None:
    result = adb("-s", shared_phone.serial, "shell", "-tt", "tty; exit 4")
    assert result.stdout.startswith("/dev/pts/")
    assert result.returncode == 4


def test_exec_carries_bytes_as_they_are(shared_phone: VirtualPhone, tmp_path: Path) -> None:
    data = os.urandom(3 * MEBIBYTE)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as file:
        adb("-s", shared_phone.serial, "exec-in", f"cat > {HOME}/exec", stdin=file)
    # exec-in returns before the phone has written.
    shell(shared_phone, f"while [ $(stat -c %s {HOME}/exec) != {len(data)} ]; do :; done")
    got = adb("-s", shared_phone.serial, "exec-out", f"cat {HOME}/exec", text=False)
    assert got.stdout == data  # type: ignore[comparison-overlap]


def test_appending_through_stdin(shared_phone: VirtualPhone, tmp_path: Path) -> None:
    data = os.urandom(9 * MEBIBYTE + 5)
    (tmp_path / "in").write_bytes(data)
    shell(shared_phone, f"head -c 7 /dev/zero > {HOME}/appended")
    with (tmp_path / "in").open("rb") as file:
        assert shell(shared_phone, f"cat >> {HOME}/appended", stdin=file).returncode == 0
    assert adb("-s", shared_phone.serial, "pull", f"{HOME}/appended", tmp_path).returncode == 0
    assert (tmp_path / "appended").read_bytes() == bytes(7) + data


def test_files_and_folders_go_there_and_back(shared_phone: VirtualPhone, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    for number, size in enumerate((0, 1, 65536, 65537, 3 * MEBIBYTE + 1)):
        (tree / f"deep/er/{number}").write_bytes(os.urandom(size))
    for number in range(100):
        (tree / f"small{number}").write_text(str(number))
    (tree / "program").write_text("#!/bin/sh\nexit 5\n")
    (tree / "program").chmod(0o755)
    (tree / "link").symlink_to("small1")
    assert adb("-s", shared_phone.serial, "push", tree, HOME).returncode == 0
    assert adb("-s", shared_phone.serial, "pull", f"{HOME}/tree", tmp_path / "back").returncode == 0
    compared = filecmp.dircmp(tree, tmp_path / "back")
    assert not compared.left_only
    assert not compared.diff_files
    for name in os.listdir(tree / "deep/er"):
        assert filecmp.cmp(tree / "deep/er" / name, tmp_path / "back/deep/er" / name, shallow=False)
    result = shell(shared_phone, f"{HOME}/tree/program; echo $?; readlink {HOME}/tree/link")
    assert result.stdout == "5\nsmall1\n"
    owner = shell(shared_phone, f"stat -c '%u %a' {HOME}/tree/deep {HOME}/tree/program").stdout
    assert owner == "2000 775\n2000 777\n"


def test_adbutils(shared_phone: VirtualPhone, tmp_path: Path, adb_server: int) -> None:
    device = adbutils.AdbClient(port=adb_server).device(shared_phone.serial)
    result = device.shell2("echo a; exit 3", v2=True)
    assert (result.returncode, result.output) == (3, "a\n")
    assert device.prop.model == "Virtual Phone"
    data = os.urandom(MEBIBYTE + 3)
    (tmp_path / "file").write_bytes(data)
    device.sync.push(tmp_path / "file", f"{HOME}/utils")
    assert device.sync.stat(f"{HOME}/utils").size == len(data)
    assert "utils" in [entry.path for entry in device.sync.list(HOME)]
    assert device.sync.read_bytes(f"{HOME}/utils") == data
    assert device.battery().level == 87


def test_the_properties_of_a_phone(shared_phone: VirtualPhone) -> None:
    listing = shell(shared_phone, "getprop").stdout
    assert "[ro.moe_mobile.virtual]: [1]" in listing
    script = "getprop ro.moe_mobile.limit; getprop ro.product.cpu.abi; getprop none; id -u"
    assert shell(shared_phone, script).stdout == "none\nx86_64\n\n2000\n"
    assert shell(shared_phone, "dumpsys battery").stdout.startswith("Current Battery Service")
    assert "Thermal Status: 0" in shell(shared_phone, "dumpsys thermalservice").stdout
    assert shell(shared_phone, "dumpsys nonsense").returncode != 0
    cpus = shell(shared_phone, "cat /sys/devices/system/cpu/possible").stdout.strip()
    assert cpus
    top = cpus.split("-")[-1]
    frequency = f"/sys/devices/system/cpu/cpu{top}/cpufreq/cpuinfo_max_freq"
    assert shell(shared_phone, f"cat {frequency}").stdout == "2800000\n"
    mask = f"{1 << int(top):x}"
    pinned = shell(shared_phone, f"taskset {mask} grep Cpus_allowed_list /proc/self/status").stdout
    assert pinned.split() == ["Cpus_allowed_list:", top]


def test_a_client_that_leaves_takes_its_command_along(shared_phone: VirtualPhone) -> None:
    serial = shared_phone.serial
    command = [adbutils.adb_path(), "-s", serial, "shell", "-T", "echo up; exec sleep 4321"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.kill()
    gone = "i=0; while pgrep -f '[s]leep 4321' && [ $i -lt 100 ]; do i=$((i+1)); sleep 0.05; done"
    assert shell(shared_phone, f"{gone}; pgrep -f '[s]leep 4321'").returncode == 1


def test_programs_ignore_no_signal_that_our_starter_ignores(phone: StartPhone) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        one = phone()
    finally:
        signal.signal(signal.SIGHUP, before)
    ignored = int(shell(one, "exec grep SigIgn /proc/self/status").stdout.split()[1], 16)
    # Signals 32 and 33 belong to the C library: no program can set them, so ours cannot either.
    assert ignored & ~(0b11 << 31) == 0


def test_flash_size_is_what_df_says(phone: StartPhone) -> None:
    small = phone(flash_size=64 * MEBIBYTE)
    total = int(shell(small, f"df -k {HOME}").stdout.splitlines()[-1].split()[1])
    assert 50 * 1024 < total <= 64 * 1024


def test_direct_reads_are_possible(shared_phone: VirtualPhone) -> None:
    script = f"cd {HOME}; head -c 1048576 /dev/zero > d; dd if=d of=/dev/null bs=4096 iflag=direct"
    assert shell(shared_phone, script).returncode == 0


def test_stopping_ends_everything(phone: StartPhone) -> None:
    one = phone()
    shell(one, "sleep 5432 >/dev/null 2>&1 </dev/null &")
    assert runs("sleep 5432")
    one.stop()
    assert not one._folder.path.exists()
    assert not runs("sleep 5432")
    assert one.serial not in adb("devices").stdout
