# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Without lm-evaluation-harness its adapter says what to install, as the program does."""

from __future__ import annotations

import subprocess
import sys

from moe_mobile.errors import UnsupportedError

MODULE = "moe_mobile.quality.lm_eval"
PROGRAM = "moe_mobile.cli.lm_eval"


def without_harness(code: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process in which lm_eval cannot be imported, installed or not."""
    hidden = f"import sys; sys.modules['lm_eval'] = None; {code}"
    return subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, timeout=1200
    )


def test_as_a_program_it_prints_an_error_and_exits() -> None:
    result = without_harness(f"import runpy; runpy.run_module({PROGRAM!r}, run_name='__main__')")
    assert result.returncode == UnsupportedError.exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("error: lm-evaluation-harness is not installed\n")
    assert "what to do: Install it: pip install 'moe-mobile[lm-eval]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_as_a_library_it_raises() -> None:
    result = without_harness(f"import {MODULE}")
    assert result.returncode == 1
    assert "UnsupportedError: lm-evaluation-harness is not installed" in result.stderr
