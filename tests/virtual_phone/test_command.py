# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile virtual-phone`, and phones of people who are not root."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import moe_mobile
from moe_mobile.cli.virtual_phone import command
from moe_mobile.errors import DeviceError, IoError, UnsupportedError, UsageError
from moe_mobile.virtual_phone import PhoneSettings, VirtualPhone, find, start
from moe_mobile.virtual_phone.folder import claim, folders
from tests.files import endless, pipe, sparse
from tests.phones import MEBIBYTE, adb, wait_until

NOBODY = "65534"

# Starts a phone without adb, which would want a home, and asks its shell who it is.
UNPRIVILEGED = """
import sys
import tempfile
from moe_mobile.virtual_phone import PhoneSettings, start
from tests.virtual_phone.raw import RawClient
phone = start(PhoneSettings(abi=sys.argv[1], ram=100 << 20, flash_size=32 << 20), connect=False)
with RawClient(phone) as client:
    script = b"id -u; touch /x /system/x 2>/dev/null || echo refused; df -k /data | tail -n 1"
    print(client.ask(client.open(b"exec:" + script), b"").decode())
    hog = b"exec:dd if=/dev/zero of=/dev/null bs=400M count=100; echo $?"
    answer = b""
    stream = client.open(hog)
    while b"137" not in answer:
        answer += client.ask(stream, b"")
    print("killed")
phone.stop()
"""


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_phones_life(adb_server: int) -> None:
    record = json.loads(
        run("start", "--name", "life", "--ram", "256MiB", "--flash-size", "64MiB", "--json")
    )
    serial = record["serial"]
    try:
        assert record["ram_bytes"] == 256 * MEBIBYTE
        assert record["limit"] in ("hard", "soft")
        assert adb("-s", serial, "shell", "echo hello").stdout == "hello\n"
        listed = json.loads(run("list", "--json"))["phones"]
        (mine,) = [phone for phone in listed if phone["name"] == "life"]
        assert mine["received_bytes"] > 0
        assert mine["sent_bytes"] > 0
        assert "life" in run("list")
        run("misbehave", "life", "--thermal-status", "2", "--not-charging")
        thermal = adb("-s", serial, "shell", "dumpsys thermalservice").stdout
        assert "Thermal Status: 2" in thermal
    finally:
        assert run("stop", serial) == "stopped life\n"
    assert serial not in adb("devices").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["stop"],
        ["stop", "nobody"],
        ["stop", "--all", "x"],
        ["misbehave", "nobody", "--full"],
        ["misbehave", "nobody"],
        ["start", "--ram", "1KiB"],
        ["start", "--ram", "99999999999999999999TiB"],
    ],
)
def test_nonsense_is_a_usage_error(adb_server: int, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, UsageError)


def test_sizes_are_read_and_written_alike(adb_server: int) -> None:
    result = CliRunner().invoke(command, ["start", "--ram", "1.5KiB"])
    assert isinstance(result.exception, UsageError)
    assert result.exception.cause == "1536B is out of range"
    assert result.exception.remedy == "Use 16MiB to 1024TiB"
    result = CliRunner().invoke(command, ["start", "--ram", "9" * 400 + "TiB"])
    assert result.exit_code == 2
    assert "invalid size" in result.output


def test_missing_tools_are_reported(adb_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    before = folders()
    with pytest.raises(UnsupportedError, match="apt-get install toybox mksh busybox-static"):
        start(PhoneSettings())
    assert folders() == before


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """A function that lets this process, and what it starts, make no larger files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_phone_that_cannot_be_made(adb_server: int, largest_file: Callable[[int], None]) -> None:
    before = folders()
    if os.geteuid() == 0:
        largest_file(1 << 30)
        with pytest.raises(UsageError, match="flash_size: this machine's file system has no files"):
            start(PhoneSettings(flash_size=1 << 40))
        assert folders() == before
    largest_file(1 << 16)
    with pytest.raises(IoError, match="writing failed: File too large"):
        start(PhoneSettings())
    assert folders() == before
    largest_file(16)
    with pytest.raises(IoError, match="writing failed: File too large"):
        start(PhoneSettings())
    assert folders() == before


def test_an_interrupted_start_leaves_no_phone(
    adb_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_MOBILE_PHONES_DIR", str(tmp_path))
    code = "from moe_mobile.virtual_phone import start; start()"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as starter:
        wait_until((tmp_path / "phone1/control").exists, pause=0.001)  # made before the phone is
        starter.kill()
    wait_until(lambda: not folders())

    def interrupt(phone: VirtualPhone) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(VirtualPhone, "connect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start()
    assert folders() == []


def test_folders_that_nobody_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_MOBILE_PHONES_DIR", str(tmp_path))
    for name, files in {
        "empty": [],
        "locked": ["lock"],
        "settled": ["lock", "settings.json", "log"],
        "ran": ["lock", "settings.json", "phone.json", "log"],
        "not_ours": ["letter", "lock"],
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    held, lock = claim("held")
    for folder in folders():
        folder.sweep()
    assert held.runs()
    assert [folder.name for folder in folders()] == ["empty", "held", "not_ours"]
    os.close(lock)
    assert not held.runs()
    assert not folders()[-1].runs()
    os.close(claim("empty")[1])
    with pytest.raises(UsageError, match="there is already a virtual phone not_ours"):
        claim("not_ours")


def test_records_of_another_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_MOBILE_PHONES_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="no virtual phone called 'nope'") as none:
        find("nope")
    assert "None runs: start one with `moe-mobile virtual-phone start`" in (none.value.remedy or "")
    old = '{"name": "old", "serial": "127.0.0.1:5", "pid": 1}'
    locks = []
    for text in ("{}", "[]", '{"name": 1, "serial": "", "pid": 1}', old):
        folder, lock = claim(None)
        locks.append(lock)
        (folder.path / "phone.json").write_text(text)
    assert run("list").startswith("no virtual phone runs")  # the last is gone without its counters
    with pytest.raises(DeviceError, match="has ended") as ended:
        folder.traffic()
    again = f"virtual-phone start --name {folder.name}"
    assert again in (ended.value.remedy or "")
    (folder.path / "counters").write_bytes(bytes(16))
    words = run("list").splitlines()[-1].split()
    assert words == ["old", "127.0.0.1:5", "-", "-", "-", "-", "0", "B", "0", "B"]
    with pytest.raises(UsageError) as other:
        find("nope")
    assert other.value.remedy == "These run: old"
    for lock in locks:
        os.close(lock)


@pytest.mark.parametrize("lay", [pipe, endless, sparse])
@pytest.mark.parametrize("name", ["phone.json", "counters"])
def test_files_of_a_phone_that_are_none(
    lay: Callable[[Path], None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_MOBILE_PHONES_DIR", str(tmp_path))
    folder, lock = claim("odd")
    record = '{"name": "odd", "serial": "127.0.0.1:5", "pid": 1}'
    (folder.path / "phone.json").write_text(record)
    (folder.path / name).unlink(missing_ok=True)
    lay(folder.path / name)
    assert run("list").startswith("no virtual phone runs")
    os.close(lock)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are about nobody's phones already")
@pytest.mark.parametrize("abi", ["x86_64", "arm64-v8a"])
def test_without_privileges(adb_server: int, abi: str) -> None:
    packages = [Path(moe_mobile.__path__[0]).parent, Path(__file__).parents[2]]
    # setpriv itself still starts a program as root would; env does not.
    prefix = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "env"]
    for python in (sys.executable, shutil.which("python3", path="/usr/bin") or sys.executable):
        command = [
            *prefix,
            python,
            "-c",
            "import moe_mobile.virtual_phone, tests.virtual_phone.raw",
        ]
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ANDROID_ADB_SERVER_PORT": str(adb_server),  # which stop() tells of it
        }
        if subprocess.run(command, env=environment, capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("nobody cannot read Python or this checkout")
    folder = Path(tempfile.gettempdir()) / f"moe-mobile-phones-{os.getpid()}"
    folder.mkdir()
    try:
        os.chown(folder, int(NOBODY), int(NOBODY))
        environment["MOE_MOBILE_PHONES_DIR"] = str(folder / "phones")
        command = [*prefix, python, "-c", UNPRIVILEGED, abi]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=1200
        )
        assert result.returncode == 0, result.stderr
        lines = result.stdout.split()
        assert lines[:2] == ["2000", "refused"]
        assert lines[3] == "32768"
        assert lines[-1] == "killed"
    finally:
        shutil.rmtree(folder)
