# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Several phones at once, some of which cannot be used."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import time

import pytest

from moe_mobile import errors
from moe_mobile.cli.deploy import command as deploy
from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.select import open_devices
from moe_mobile.virtual_phone import Misbehaviour
from tests.cli.program import COMMAND, INTERRUPTIBLE, run_cli
from tests.device.test_deploy import length
from tests.phones import StartPhone, wait_until
from tests.terminal import Terminal

BENCH = ("-p", 0, "-n", 4, "-r", 1)


def test_all_reports_phones_that_are_not_ready(
    phone: StartPhone, tiny_bundle: pathlib.Path
) -> None:
    shy = phone(misbehaviour=Misbehaviour(unauthorized=True))
    good = phone()
    mute = phone(misbehaviour=Misbehaviour(offline=True))
    result = run_cli("deploy", tiny_bundle, "--all", "--json")
    assert result.returncode == 12
    ends = {one["device"]: one for one in json.loads(result.stdout)["deployments"]}
    assert ends.keys() == {shy.serial, good.serial, mute.serial}
    assert ends[good.serial]["bytes_sent"] == ends[good.serial]["bytes"]
    for one, told in ((shy, "not authorised"), (mute, "offline")):
        assert told in ends[one.serial]["error"]["cause"]
        assert told in result.stderr
        assert one.serial in result.stderr

    result = run_cli("bench", tiny_bundle, "--all", *BENCH, "--format", "jsonl")
    assert result.returncode == 12, result.stderr
    assert [json.loads(line)["device"]["serial"] for line in result.stdout.splitlines()] == [
        good.serial
    ]
    for one in (shy, mute):
        assert f"note: {one.serial} is left out: " in result.stderr
        assert f"error: {one.serial}: " in result.stderr


@pytest.mark.parametrize("bad_first", [True, False])
def test_a_serial_that_is_not_there_does_not_stop_the_others(
    phone: StartPhone, tiny_bundle: pathlib.Path, bad_first: bool
) -> None:
    one = phone()
    serials = ["nosuch", one.serial] if bad_first else [one.serial, "nosuch"]
    named = [word for serial in serials for word in ("-s", serial)]
    result = run_cli("deploy", tiny_bundle, *named, "--json")
    ends = json.loads(result.stdout)["deployments"]
    assert [end["device"] for end in ends] == serials
    assert [("error" in end) for end in ends] == [serial == "nosuch" for serial in serials]
    assert result.returncode == 12
    assert "no such device" in result.stderr
    result = run_cli("bench", tiny_bundle, *named, *BENCH, "--json")
    assert result.returncode == 12
    row, error = json.loads(result.stdout)
    assert row["device"]["serial"] == one.serial
    assert error["error"]["setting"] == "nosuch"


def test_none_of_the_named_phones_is_connected(
    phone: StartPhone, tiny_bundle: pathlib.Path
) -> None:
    phone()
    named = ("-s", "nosuch", "-s", "nothing")
    result = run_cli("deploy", tiny_bundle, *named, "--json")
    ends = json.loads(result.stdout)["deployments"]
    assert [end["error"]["setting"] for end in ends] == ["nosuch", "nothing"]
    assert result.returncode == 12
    result = run_cli("bench", tiny_bundle, *named, *BENCH, "--json")
    assert result.returncode == 12
    assert "nosuch" in result.stdout
    for serial in ("nosuch", "nothing"):
        assert serial in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("named", [["", "nosuch"], ["nosuch", ""]])
def test_an_empty_serial_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, named: list[str]
) -> None:
    monkeypatch.setattr(AdbServer, "states", lambda server: {})
    with pytest.raises(errors.UsageError, match="serial is empty"):
        open_devices(named, every=False, otherwise=None)


def test_named_phones_may_all_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdbServer, "states", lambda server: {})
    opened = open_devices(["nosuch", "nothing"], every=False, otherwise=None)
    assert (opened.devices, list(opened.failed)) == ([], ["nosuch", "nothing"])


def test_one_phone_that_is_named_twice_and_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `-s any` it is there, and is lost before it is opened by its serial."""
    states = iter([{"X": "device"}] * 3)
    monkeypatch.setattr(AdbServer, "states", lambda server: next(states, {}))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    named = ["-s", "any", "-s", "X"]
    (tmp_path / "bundle.json").touch()
    assert deploy.main([str(tmp_path), *named, "--json"], standalone_mode=False) == 12
    ended = capsys.readouterr()
    (end,) = json.loads(ended.out)["deployments"]
    assert (end["device"], end["error"]["code"]) == ("X", "device")
    assert "no such device" in ended.err


def test_all_phones_are_sent_to_at_the_same_time(
    phone: StartPhone, large_bundle: pathlib.Path
) -> None:
    both = [phone(link_mbps=40), phone(link_mbps=40)]
    most = length(large_bundle)
    got = []
    # With a terminal for the bars, as a person has it.
    terminal = Terminal()
    with subprocess.Popen(
        [*COMMAND, "deploy", str(large_bundle), "--all"],
        stdout=subprocess.PIPE,
        stderr=terminal.descriptor,
    ) as process:
        attached = terminal.attached()
        while process.poll() is None:
            got.append(sorted(one.traffic()[0] for one in both))
            time.sleep(0.05)
        assert process.stdout is not None
        lines = process.stdout.read().decode().splitlines()
    shown = attached()
    assert process.returncode == 0, shown
    # Both had much while much was still missing on both.
    assert [one for one in got if most / 4 < one[0] <= one[1] < most * 3 / 4], got
    assert sorted(line.partition(": sent")[0] for line in lines) == sorted(
        one.serial for one in both
    )
    drawn = re.split(r"[\r\n]|\x1b\[A", shown)  # each a line of the terminal
    for one in both:
        bars = [line for line in drawn if line.startswith(f"{one.serial} sending: ")]
        assert [line for line in bars if re.search(r"\d MiB/s\]?$", line)], drawn
        assert max(map(len, bars)) <= 80


def test_an_interruption_ends_all_deployments(
    phone: StartPhone, large_bundle: pathlib.Path
) -> None:
    both = [phone(link_mbps=10), phone(link_mbps=10)]
    with subprocess.Popen(
        [*INTERRUPTIBLE, "deploy", str(large_bundle), "--all", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: min(one.traffic()[0] for one in both) > 1 << 23)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=1200)
    assert process.returncode == 130, stderr
    assert stderr.count("stopped by the user") == 1
    assert json.loads(stdout)["error"]["code"] == "cancelled"
