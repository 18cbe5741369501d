# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A phone that is connected and says nothing at all, and an adb server that does so."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from moe_mobile.base import limits
from moe_mobile.cli.devices import command as devices
from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.lost import LostError
from moe_mobile.device.select import open_device
from moe_mobile.errors import DeviceError
from moe_mobile.virtual_phone import VirtualPhone
from tests.phones import StartPhone


@contextlib.contextmanager
def silenced(one: VirtualPhone) -> Iterator[None]:
    """adb's server stays connected to it: the kernel takes what is sent."""
    owner = one.record["pid"]
    servers = pathlib.Path(f"/proc/{owner}/task/{owner}/children").read_text().split()
    assert servers
    for pid in servers:
        os.kill(int(pid), signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in servers:
            os.kill(int(pid), signal.SIGCONT)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the limits for phones short, and those for adb's server, which is honest, long."""

    def shorten() -> None:
        for name in ("ANSWER_S", "SILENCE_S"):
            monkeypatch.setattr(limits, name, 1.0)
        monkeypatch.setattr(limits, "SERVER_S", 300.0)

    return shorten


def _told(error: DeviceError, one: VirtualPhone) -> None:
    assert "it did not answer in 1 s" in error.cause
    assert one.serial in str(error)
    assert "Check its cable or network" in str(error)
    assert "kill-server" not in str(error)


def test_a_silent_phone_is_not_taken_for_a_silent_server(
    phone: StartPhone, short: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    one = phone()
    device = open_device(one.serial)
    assert isinstance(device, AdbDevice)
    short()
    with silenced(one):
        with pytest.raises(LostError) as caught:
            device.facts()
        _told(caught.value, one)
        with pytest.raises(LostError) as caught, device.exclusive():
            pass
        _told(caught.value, one)
        devices.main(["--json"], standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)["devices"]
    assert "it did not answer in 1 s. Check its cable" in row["problem"]


def test_an_engine_on_a_phone_that_goes_silent(
    phone: StartPhone, short: Callable[[], None]
) -> None:
    one = phone()
    with open_device(one.serial).runner() as runner:
        runner.request("digest", paths=[])
        short()
        with silenced(one), pytest.raises(LostError, match="the engine got no further") as caught:
            runner.request("digest", paths=[])
    _told(caught.value, one)


def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(listener.getsockname()[1]))
        monkeypatch.setattr(limits, "SERVER_S", 1.0)
        server = AdbServer()
        for ask in (server.states, lambda: server.shell("R58M", "true", seconds=300)):
            with pytest.raises(LostError, match="adb's server does not answer") as caught:
                ask()
            assert "adb kill-server" in str(caught.value.remedy)
