# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""This machine as a device."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Sequence

from moe_mobile.base import limits
from moe_mobile.base.progress import Progress
from moe_mobile.device.facts import facts_script, parse_facts
from moe_mobile.device.interface import Device, DeviceFacts, ShellResult
from moe_mobile.device.script_output import decoded
from moe_mobile.errors import BundleCorruptError, DeviceError, MoeMobileError, UsageError
from moe_mobile.runner import Runner


class LocalDevice(Device):
    """Runs the engine here; bundles are used where they lie."""

    def __init__(self) -> None:
        super().__init__("local")

    def facts(self) -> DeviceFacts:
        text = self.shell(facts_script(os.getcwd())).stdout
        return parse_facts(text, serial=self.serial, kind="local")

    def shell(self, script: str, *, timeout: float | None = None) -> ShellResult:
        timeout = limits.ANSWER_S if timeout is None else timeout
        try:
            result = subprocess.run(
                ["/bin/sh", "-c", script],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"a script on this machine took more than {timeout:.0f} s",
                remedy="It may be overloaded: run this again",
            ) from None
        code = result.returncode if result.returncode >= 0 else 128 - result.returncode
        return ShellResult(code, decoded(result.stdout), decoded(result.stderr))

    def stream(self, script: str) -> subprocess.Popen[bytes]:
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(["/bin/sh", "-c", script], stdin=pipe, stdout=pipe, stderr=nowhere)

    def _start_runner(self, cpus: Sequence[int] | None) -> Runner:
        runner = Runner()
        if cpus is not None:
            try:
                # Its threads come with the first request, and inherit this.
                os.sched_setaffinity(runner.pid, cpus)
            except (OSError, ValueError) as error:
                runner.kill()
                raise UsageError(
                    f"this process may not run on cores {', '.join(map(str, cpus))}: {error}",
                    setting="affinity",
                    remedy="Name cores that it may use, or give all",
                ) from None
        return runner

    def place(self, bundle: pathlib.Path, progress: Progress | None = None) -> str:
        return str(bundle)

    def distrust(self, bundle: pathlib.Path, damaged: BundleCorruptError) -> MoeMobileError:
        return damaged  # nothing is remembered here

    def locate(self, bundle: pathlib.Path) -> str:
        return str(bundle)
