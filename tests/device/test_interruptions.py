# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""After any end of a command, no part of it goes on, on the phone or here."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import time

from moe_mobile.device.select import open_device
from moe_mobile.virtual_phone import VirtualPhone
from tests.cli.program import INTERRUPTIBLE, ok
from tests.phones import StartPhone, wait_until


def engines(phone: VirtualPhone) -> list[str]:
    """Command lines of engines on a phone."""
    script = "grep -lx moe_runner /proc/[0-9]*/comm"
    return open_device(phone.serial).shell(script).stdout.split()


def clients(phone: VirtualPhone) -> list[str]:
    """adb clients here that speak to a phone."""
    found = subprocess.run(["pgrep", "-af", f"-- -s {phone.serial} shell"], capture_output=True)
    return [line for line in found.stdout.decode().splitlines() if "pgrep" not in line]


def test_a_bench_takes_its_engine_along(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    ok("prepare", tiny_bundle, "--device", one.serial)
    # One request that takes minutes, and says nothing meanwhile.
    command = [*INTERRUPTIBLE, "bench", str(tiny_bundle), "--device", one.serial]
    command += ["-p", "0", "-n", "60", "-r", "100000", "--cool-to", "off"]
    command += ["--residency", "programs", "--cache", "25%", "--allow-below-cycle"]
    pipe = subprocess.PIPE
    for number, exit_code in (("INT", 130), ("TERM", 130), ("HUP", 130), ("KILL", -9)):
        with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
            wait_until(lambda: bool(engines(one)))
            time.sleep(0.5)
            process.send_signal(signal.Signals[f"SIG{number}"])
            _, stderr = process.communicate(timeout=1200)
        assert process.returncode == exit_code
        assert b"Traceback" not in stderr
        wait_until(lambda: not engines(one) and not clients(one))
