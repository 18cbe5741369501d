# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""An adb server on an unusual address or port."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from moe_mobile.device.adb_server import AdbServer
from tests.cli.program import run_cli
from tests.device.test_bad_days import failed_in
from tests.phones import StartPhone

# Loopback too, and nothing but what we put there listens on it.
ELSEWHERE = "127.0.0.2"


def pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def serve(listener: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pour, args=pair, daemon=True).start()


def free_port() -> int:
    """For the address at which adb would start a server of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def elsewhere(adb_server: int) -> Iterator[dict[str, str]]:
    """The environment in which the tests' adb server is on another address and port."""
    port = free_port()
    with socket.socket() as listener:
        listener.bind((ELSEWHERE, port))
        listener.listen(64)
        threading.Thread(target=serve, args=(listener, adb_server), daemon=True).start()
        yield {"ANDROID_ADB_SERVER_HOST": ELSEWHERE, "ANDROID_ADB_SERVER_PORT": str(port)}
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    assert not listens(port), "an adb server was left behind"


def test_all_commands_use_the_server_of_that_host(
    phone: StartPhone, tiny_bundle: pathlib.Path, elsewhere: dict[str, str]
) -> None:
    one = phone()
    on_phone = (tiny_bundle, "--device", one.serial)
    environment = os.environ | elsewhere
    for arguments in (
        ("devices",),
        ("deploy", *on_phone),
        ("info", *on_phone),
        ("generate", *on_phone, "--token-ids", "5,6,7", "-n", 4),
        ("bench", *on_phone, "-p", 0, "-n", 4, "-r", 1),
    ):
        result = run_cli(*arguments, "--json", env=environment)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        if arguments[0] == "bench":  # the sampler has a connection of its own
            assert json.loads(result.stdout)[0]["pss_bytes"]
    second = run_cli("virtual-phone", "start", "--name", "second", env=environment)
    try:
        listed = json.loads(run_cli("devices", "--json", env=environment).stdout)["devices"]
        assert {row["serial"] for row in listed} == {one.serial, second.stdout.strip()}
    finally:
        run_cli("virtual-phone", "stop", "second", env=environment)


def test_no_server_of_that_host(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    for host, told in (
        ("nosuchhost.invalid", "unknown host"),
        (ELSEWHERE, "no adb server answers"),
    ):
        port = free_port()
        environment = {"ANDROID_ADB_SERVER_HOST": host, "ANDROID_ADB_SERVER_PORT": str(port)}
        for arguments in (("devices",), ("info", tiny_bundle, "-s", one.serial)):
            error = failed_in(environment, 12, *arguments)
            assert error["setting"] == "ANDROID_ADB_SERVER_HOST"
            assert told in error["cause"]
            assert "unset that variable" in error["remedy"]
            assert "kill-server" not in error["remedy"]
        assert not listens(port), "an adb server was left behind"


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_is_reported_as_unsupported(host: str) -> None:
    error = failed_in({"ANDROID_ADB_SERVER_HOST": host}, 12, "devices")
    assert error["setting"] == "ANDROID_ADB_SERVER_HOST"
    assert "IPv6 addresses only" in error["cause"]
    assert "unset that variable" in error["remedy"]


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1"])
def test_names_of_this_machine(phone: StartPhone, tiny_bundle: pathlib.Path, host: str) -> None:
    one = phone()
    environment = os.environ | {"ANDROID_ADB_SERVER_HOST": host}
    result = run_cli("info", tiny_bundle, "-s", one.serial, "--json", env=environment)
    assert result.returncode == 0, result.stderr


def _answered(client: socket.socket, answers: dict[str, bytes]) -> None:
    """As adb's server: a request has four hexadecimal digits of length before it."""
    with client, contextlib.suppress(OSError, ValueError):
        while True:
            request = client.recv(int(client.recv(4), 16)).decode()
            answer = next(one for start, one in answers.items() if request.startswith(start))
            client.sendall(answer)
            if not request.startswith("host:transport"):
                return


def _text(status: bytes, text: str) -> bytes:
    return status + f"{len(text):04x}{text}".encode()


CLOSED = _text(b"FAIL", "closed")


@contextlib.contextmanager
def _server(answers: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """The environment in which adb's server gives these answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    _answered(listener.accept()[0], answers)

        threading.Thread(target=run, daemon=True).start()
        yield {"ANDROID_ADB_SERVER_PORT": str(listener.getsockname()[1])}


@pytest.mark.parametrize(
    ("transport", "shell", "features", "cause", "remedy"),
    [
        (_text(b"FAIL", "more than one device"), b"", b"", "several devices", "over Wi-Fi"),
        (b"OKAY", CLOSED, _text(b"OKAY", ""), "shell protocol, version 2", "Android 7"),
        (b"OKAY", CLOSED, _text(b"OKAY", "cmd,shell_v2"), "a shell: closed", "Reconnect it"),
        (b"OKAY", CLOSED, _text(b"FAIL", "device offline"), "a shell: closed", "have Android 7"),
        (b"OKAY", _text(b"FAIL", "out of order"), b"", "out of order", "adb kill-server"),
    ],
)
def test_phones_that_refuse_a_shell_are_told_why(
    transport: bytes, shell: bytes, features: bytes, cause: str, remedy: str
) -> None:
    answers = {
        "host:version": _text(b"OKAY", "0029"),
        "host:devices": _text(b"OKAY", "R58M\tdevice\n"),
        "host:transport": transport,
        "shell,v2": shell,
        "host-serial:R58M:features": features,
    }
    with _server(answers) as environment:
        result = run_cli("devices", "--json", env=environment)
    (row,) = json.loads(result.stdout)["devices"]
    assert cause in row["problem"]
    assert remedy in result.stdout


@pytest.mark.parametrize("other", ["device", "offline"])
def test_phones_of_one_serial_number_stay_two(tiny_bundle: pathlib.Path, other: str) -> None:
    """Neither is used, even if the server takes any of them."""
    answers = {
        "host:version": _text(b"OKAY", "0029"),
        "host:devices": _text(b"OKAY", f"0123\tdevice\n0123\t{other}\n"),
        "host:transport": b"OKAY",
        "shell,v2": b"OKAY",
    }
    several = "several devices with this serial number"
    with _server(answers) as environment:
        rows = json.loads(run_cli("devices", "--json", env=environment).stdout)["devices"]
        shown = run_cli("devices", env=environment).stdout.splitlines()
        for device in ("0123", "any"):
            error = failed_in(environment, 12, "info", tiny_bundle, "-s", device)
            assert several in error["cause"]
            assert "adb -t ID tcpip" in error["remedy"]
        for arguments in (("deploy", tiny_bundle), ("bench", tiny_bundle, "-p", 0)):
            result = run_cli(*arguments, "--all", "--json", env=environment)
            assert result.returncode == 12
            assert "0123 is ambiguous" in result.stdout
    states = ["ambiguous", "ambiguous" if other == "device" else other]
    assert [(row["serial"], row["state"]) for row in rows] == [("0123", state) for state in states]
    assert [line.startswith("0123") for line in shown] == [True, True]
    assert several in rows[0]["problem"]


def test_of_several_phones_none_is_ready(tiny_bundle: pathlib.Path) -> None:
    answers = {
        "host:version": _text(b"OKAY", "0029"),
        "host:devices": _text(b"OKAY", "R58M\tunauthorized\nR59M\toffline\n"),
    }
    with _server(answers) as environment:
        for which in (("-s", "any"), ("--all",)):
            error = failed_in(environment, 12, "deploy", tiny_bundle, *which)
            assert "R58M is unauthorized, R59M is offline" in error["cause"]
            assert "R58M: Unlock it and accept the dialog" in error["remedy"]
            assert "R59M: Replug it" in error["remedy"]


def test_a_phone_that_another_joined_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever stays might be the other one."""
    answers = {
        "host:version": _text(b"OKAY", "0029"),
        "host:devices": _text(b"OKAY", "0123\tdevice\n0123\tdevice\n"),
    }
    with _server(answers) as environment:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", environment["ANDROID_ADB_SERVER_PORT"])
        began = time.monotonic()
        assert not AdbServer().wait("0123", 3600)
    assert time.monotonic() - began < 600
