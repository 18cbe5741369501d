# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine on a phone that runs out of memory: it is killed there, and that is reported."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import adbutils
import pytest

from moe_mobile.virtual_phone import PhoneSettings, VirtualPhone, start
from moe_mobile.virtual_phone.settings import LIMITERS, SMALLEST_RAM
from tests.cli.program import COMMAND, failed, ok, ok_json, run_cli
from tests.phones import MEBIBYTE, StartPhone, available, born, needs_limiter, shell, wait_until

RAM = 80 * MEBIBYTE
EXPERTS = 48 * MEBIBYTE
# Less than the engine with all experts, so that the engine is the one to go; with it too much,
# with a quarter of them not.
APP = 40 * MEBIBYTE

# Runs that last, and then some. They take all experts into memory.
ENDLESS: dict[str, tuple[object, ...]] = {
    "bench": ("-p", 0, "-n", 8, "-r", 100_000, "--cache", "100%"),
    "generate": ("--token-ids", 5, "-n", 16_000, "--ignore-eos", "--residency", "resident"),
}


def kills(phone: VirtualPhone) -> list[str]:
    return [
        line for line in shell(phone, "logcat -d").stdout.splitlines() if "lowmemorykiller" in line
    ]


def wait_for_memory_back(phone: VirtualPhone) -> None:
    """A virtual phone looks now and then: an engine that ended may still be counted."""
    ram = phone.record["ram_bytes"]
    wait_until(lambda: available(phone) > ram - 8 * MEBIBYTE)


@pytest.fixture(scope="module", params=LIMITERS)
def limited(
    request: pytest.FixtureRequest, adb_server: int, wide_bundle: pathlib.Path
) -> Iterator[VirtualPhone]:
    """A phone with the bundle, by every limiter that this machine has; the watchdog is
    everywhere."""
    with needs_limiter(request.param):
        one = start(PhoneSettings(ram=RAM, limiter=request.param))
    try:
        ok("prepare", wide_bundle, "--device", one.serial)
        yield one
    finally:
        one.stop()


@contextlib.contextmanager
def endless(
    command: str, bundle: pathlib.Path, phone: VirtualPhone
) -> Iterator[subprocess.Popen[str]]:
    """A run that has all experts in memory and goes on."""
    wait_for_memory_back(phone)
    before = available(phone)
    arguments = (command, bundle, *ENDLESS[command], "--device", phone.serial, "--json")
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            wait_until(lambda: available(phone) < before - EXPERTS or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def app(phone: VirtualPhone) -> Iterator[subprocess.Popen[bytes]]:
    """Takes memory and keeps it, as an app does that comes to the front."""
    # The block is what was read so far; the rest never comes.
    script = f"(head -c {APP} /dev/zero; exec sleep 60) | dd of=/dev/null bs=64M iflag=fullblock"
    command = [adbutils.adb_path(), "-s", phone.serial, "shell", "-T", script]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:

        def ended() -> bool:
            # More than once: where the phone killed dd, the sleep begins only after that.
            shell(phone, "pkill sleep")
            return process.poll() is not None

        try:
            yield process
        finally:
            wait_until(ended)
    wait_for_memory_back(phone)


def assert_reported_as_killed(
    process: subprocess.Popen[str], phone: VirtualPhone, why: str
) -> None:
    """How a command has to end when its engine was killed: soon, and saying what to do."""
    stdout, stderr = process.communicate(timeout=1200)
    assert process.returncode == 13, stdout + stderr
    assert "Traceback" not in stderr
    error: dict[str, Any] = json.loads(stdout)["error"]
    assert (error["code"], error["exit_code"]) == ("killed", 13)
    assert "to get memory back; the device says: Kill 'moe_runner'" in error["cause"]
    assert why in error["cause"]
    assert phone.serial in error["file"]
    assert "smaller --cache" in error["remedy"]
    for member in ("cause", "file", "remedy"):
        assert error[member] in stderr


@pytest.mark.parametrize("command", ENDLESS)
def test_more_memory_than_the_phone_has_ends_the_engine(
    limited: VirtualPhone, wide_bundle: pathlib.Path, command: str
) -> None:
    with endless(command, wide_bundle, limited) as process, app(limited):
        assert_reported_as_killed(process, limited, "memory limit of the phone")


def test_a_budget_that_the_phone_has_is_enough(
    limited: VirtualPhone, wide_bundle: pathlib.Path
) -> None:
    on_phone = (wide_bundle, "--device", limited.serial)
    killed = kills(limited)
    with app(limited) as other:
        wait_until(lambda: available(limited) < RAM - APP)
        room = available(limited)
        small = ("--cache", "25%")
        (row,) = ok_json("bench", *on_phone, "-p", 0, "-n", 8, "-r", 1, *small)
        assert EXPERTS / 4 < row["rss_anon_bytes"] < row["plan"]["total_bytes"] + 8 * MEBIBYTE
        assert row["plan"]["total_bytes"] < RAM - APP
        # A virtual phone looks now and then: the engine that ended may still be counted.
        wait_until(lambda: available(limited) > room - 4 * MEBIBYTE)
        tokens = ("--token-ids", 5, "-n", 100, "--ignore-eos")
        assert ok_json("generate", *on_phone, *tokens, *small)["new_tokens"] == 100
        # More is refused, as far as it can be known beforehand.
        assert (
            "are available" in failed(9, "generate", *on_phone, *tokens, "--cache", "100%")["cause"]
        )
        assert other.poll() is None
    assert kills(limited) == killed


@pytest.mark.parametrize("command", ENDLESS)
def test_the_low_memory_killer_ends_a_run(
    limited: VirtualPhone, wide_bundle: pathlib.Path, command: str
) -> None:
    with endless(command, wide_bundle, limited) as process:
        result = run_cli("virtual-phone", "misbehave", limited.serial, "--kill", "moe_runner")
        assert result.returncode == 0, result.stderr
        assert_reported_as_killed(process, limited, "device is low on memory")


@pytest.mark.parametrize("limiter", [kind for kind in LIMITERS if kind != "watchdog"])
def test_the_smallest_phone_kills_the_engine_and_not_itself(
    phone: StartPhone, tiny_bundle: pathlib.Path, wide_bundle: pathlib.Path, limiter: str
) -> None:
    with needs_limiter(limiter):
        one = phone(ram=SMALLEST_RAM, limiter=limiter)
    before = born(one)
    assert before
    ok_json("generate", tiny_bundle, "-s", one.serial, "--token-ids", 5, "-n", 4)
    run = ("bench", wide_bundle, "-s", one.serial, "-p", 0, "-n", 4, "-r", 1, "--cache", "100%")
    # Refused, or killed if packing the weights took too much before that was known.
    result = run_cli(*run, "--json")
    error = json.loads(result.stdout)["error"]
    assert (result.returncode, error["code"]) in ((9, "budget"), (13, "killed")), error
    assert born(one) == before
    # An app that wants more than there is.
    with app(one):
        wait_until(lambda: "Kill" in shell(one, "logcat -d").stdout)
    assert born(one) == before
