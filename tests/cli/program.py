# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs `moe-mobile` as a user does, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.cli import preloaded

COMMAND = (sys.executable, "-c", "from moe_mobile.cli import main; main()")

# A job in the background (CI may be one) ignores SIGINT, and its children inherit that.
INTERRUPTIBLE = ("env", "--default-signal=INT,HUP", *COMMAND)


def run_cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The finished process with its output as text."""
    words = [*map(str, arguments)]
    begin = preloaded.command(words[0] if words else "", options.get("env") or os.environ)
    command = [*(begin or COMMAND), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, **options)


def ok(*arguments: object) -> str:
    """stdout of a command that must succeed."""
    result = run_cli(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def ok_json(*arguments: object) -> Any:
    """The JSON a command printed with --json, and nothing else."""
    return json.loads(ok(*arguments, "--json"))


def failed(exit_code: int, *arguments: object) -> dict[str, Any]:
    """The error object of a command that must fail; stderr tells a person the same."""
    result = run_cli(*arguments, "--json")
    assert result.returncode == exit_code, result.stdout + result.stderr
    error: dict[str, Any] = json.loads(result.stdout)["error"]
    assert error["exit_code"] == exit_code
    assert f"{error['cause']}" in result.stderr
    for member in ("file", "setting", "remedy"):
        assert error[member] is None or error[member] in result.stderr
    assert "Traceback" not in result.stderr
    return error


def without_engine() -> dict[str, str]:
    """An environment without a runner."""
    return os.environ | {"MOE_MOBILE_RUNNER": "/nowhere/moe_runner"}
