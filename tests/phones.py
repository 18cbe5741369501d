# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests that need phones: an adb server of the run's own, and virtual phones."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adbutils
import pytest

from moe_mobile.errors import UnsupportedError
from moe_mobile.virtual_phone import PhoneSettings, VirtualPhone, phones, start

HOME = "/data/local/tmp"
MEBIBYTE = 1 << 20

StartPhone = Callable[..., VirtualPhone]


def adb(
    *arguments: str | Path, timeout: float = 600, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the adb client that the package uses."""
    command = [adbutils.adb_path(), *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": timeout} | options
    if "input" not in options and "stdin" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(command, **options)


def shell(phone: VirtualPhone, script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script on a phone by adb."""
    return adb("-s", phone.serial, "shell", "-T", script, **options)


def available(phone: VirtualPhone) -> int:
    """Bytes of memory that a phone says are available."""
    return int(shell(phone, "grep MemAvailable /proc/meminfo").stdout.split()[1]) * 1024


def born(phone: VirtualPhone) -> str:
    """When a phone's process 1 was started: another time after a reboot."""
    return shell(phone, "cut -d ' ' -f 22 /proc/1/stat").stdout


def runs(command: str) -> bool:
    """Whether a process with that command line runs, on this machine or on one of its phones."""
    return subprocess.run(["pgrep", "-f", command], capture_output=True).returncode == 0


@contextlib.contextmanager
def needs_limiter(name: str) -> Iterator[None]:
    """Skips the test if this machine cannot limit memory so; the watchdog works everywhere."""
    try:
        yield
    except UnsupportedError:
        assert name != "watchdog"
        pytest.skip(f"no {name} on this machine")


def wait_until(condition: Callable[[], bool], pause: float = 0.01) -> None:
    """Fails after twenty minutes, which only something that hangs takes."""
    end = time.monotonic() + 1200
    while not condition():
        assert time.monotonic() < end
        time.sleep(pause)


def assert_takes(action: Callable[[], object], least: float, most: float) -> None:
    """Never less than the least; at least once, whatever else uses the cores, under the most."""

    def under_the_most() -> bool:
        began = time.monotonic()
        action()
        seconds = time.monotonic() - began
        assert seconds >= least
        return seconds < most

    wait_until(under_the_most)


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real adb server on a free port, which adb and adbutils use until the tests end.

    It knows no device of this machine, and phones started meanwhile are its own.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        # No keys in the user's home, no USB devices of this machine.
        patch.setenv("ANDROID_USER_HOME", str(tmp_path_factory.mktemp("android")))
        # Looking for USB devices would take it three seconds.
        patch.setenv("ADB_LIBUSB", "0")
        patch.setenv("ADB_MDNS_AUTO_CONNECT", "0")
        patch.setenv("MOE_MOBILE_PHONES_DIR", str(tmp_path_factory.mktemp("phones")))
        patch.delenv("ANDROID_SERIAL", raising=False)
        adb("start-server")
        yield port
        for left in phones():
            left.stop()
        adb("kill-server")


@pytest.fixture
def phone(adb_server: int) -> Iterator[StartPhone]:
    """A function that starts a phone of the given settings, connected to adb_server."""
    started: list[VirtualPhone] = []

    def factory(**settings: Any) -> VirtualPhone:
        started.append(start(PhoneSettings(**settings)))
        return started[-1]

    yield factory
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def shared_phone(adb_server: int) -> Iterator[VirtualPhone]:
    """One phone for all tests of a file that leave it as it was; others count what is connected."""
    one = start(PhoneSettings(name="shared"))
    yield one
    one.stop()
