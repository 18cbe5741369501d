# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Nothing outside a phone is reached from inside it."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import pytest

from moe_mobile.virtual_phone import VirtualPhone
from tests.phones import HOME, StartPhone, adb, runs, shell, wait_until
from tests.virtual_phone.raw import RawClient


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of this machine that nobody in a phone may see."""
    path = tmp_path / "secret"
    path.write_text("secret")
    return path


def test_paths_end_at_the_phones_root(shared_phone: VirtualPhone, secret: Path) -> None:
    ways = [str(secret), f"{'../' * 20}{secret}", f"{HOME}/{'../' * 20}{secret}"]
    ways += [f"/proc/{pid}/{link}{secret}" for pid in (1, "self") for link in ("root", "cwd")]
    shell(shared_phone, f"ln -sfn {'../' * 20} {HOME}/up; ln -sfn / {HOME}/top")
    ways += [f"{HOME}/up{secret}", f"{HOME}/top{secret}"]
    with RawClient(shared_phone) as client:
        for way in ways:
            path = way.encode()
            assert client.sync((b"RECV", path))[:4] == b"FAIL", way
            assert client.sync((b"STAT", path)) == b"STAT" + bytes(12), way
            send = path + b",33188"
            client.sync((b"SEND", send), (b"DATA", b"overwritten"))
    assert secret.read_text() == "secret"
    assert shell(shared_phone, f"cat {' '.join(ways)}").stdout == ""


def test_sync_is_the_shell_user(shared_phone: VirtualPhone, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in ("/file", "/system/bin/sh", "/data/file", "/dev/file", "/virtual/log"):
        result = adb("-s", shared_phone.serial, "push", tmp_path / "file", target)
        assert result.returncode != 0, target
    shell(shared_phone, f"echo x > {HOME}/mine; chmod 000 {HOME}/mine")
    assert adb("-s", shared_phone.serial, "pull", f"{HOME}/mine", tmp_path).returncode != 0


def test_devices_and_pipes_are_not_files(shared_phone: VirtualPhone) -> None:
    shell(shared_phone, f"mkfifo {HOME}/pipe")
    with RawClient(shared_phone) as client:
        for path in (f"{HOME}/pipe", "/dev/zero", "/data"):
            assert client.sync((b"RECV", path.encode()))[:4] == b"FAIL", path
        zero = struct.pack("<4sI", b"DONE", 0)
        assert zero not in client.sync((b"SEND", b"/dev/zero,33188"), (b"DATA", b"x"))


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none /data/local/tmp",
        "su -c id",
        "chroot / id",
        "unshare -m true",
        "mknod /data/local/tmp/node b 254 0",
        "kill -9 1; kill -0 1",
        "echo x > /proc/sys/kernel/hostname",
        "echo 0 > /virtual/meminfo",
        "cat /proc/1/environ",
        "ls /proc/1/fd/",
        "reboot_host() { echo b > /proc/sysrq-trigger; }; reboot_host",
    ],
)
def test_the_shell_user_may_not(shared_phone: VirtualPhone, script: str) -> None:
    assert shell(shared_phone, script).returncode != 0
    assert shell(shared_phone, "true").returncode == 0


def test_processes_of_this_machine_are_unknown(shared_phone: VirtualPhone) -> None:
    listed = shell(shared_phone, "ps -A -o PID").stdout.split()[1:]
    assert listed[0] == "1"
    assert len(listed) < 20
    assert len(shell(shared_phone, "cat /proc/net/route").stdout.splitlines()) <= 1


def test_binary_formats_are_registered_inside_the_phone_only(phone: StartPhone) -> None:
    folder = Path("/proc/sys/fs/binfmt_misc")
    before = sorted(folder.glob("*"))
    phone(abi="arm64-v8a")
    assert sorted(folder.glob("*")) == before


def test_a_terminated_phone_leaves_nothing(phone: StartPhone) -> None:
    one = phone(ram=256 << 20)
    shell(one, "sleep 6543 >/dev/null 2>&1 </dev/null &")
    folder = one._folder.path
    os.kill(one.record["pid"], signal.SIGTERM)
    wait_until(lambda: not folder.exists())
    assert not runs("sleep 6543")
    assert str(folder) not in Path("/proc/mounts").read_text()
    groups = Path("/sys/fs/cgroup").rglob(f"moe-mobile-{one.record['pid']}*")
    assert list(groups) == []


def test_a_killed_supervisor_takes_its_phone_along(phone: StartPhone) -> None:
    one = phone()
    shell(one, "sleep 7654 >/dev/null 2>&1 </dev/null &")
    os.kill(one.record["pid"], signal.SIGKILL)
    wait_until(lambda: not runs("sleep 7654"))
