# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A process that is forked while an engine is open can end, and gets an error if it uses one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A process of its own: forks of pytest's would take its threads and files along.
PROGRAM = """
import os, sys
from moe_mobile import Engine
from moe_mobile.errors import UsageError

bundle, what = sys.argv[1:]
engine = Engine(bundle, "50%", context=64, threads=2)
tokens = engine.generate([5, 6, 7], 20)
next(tokens)
child = os.fork()
if child == 0:
    try:
        if what == "close":
            engine.close()
        elif what == "delete":
            del engine, tokens
        elif what == "generate":
            engine.generate([5, 6, 7], 3)
        elif what == "continue":
            list(tokens)
        elif what == "open":
            Engine(bundle, "50%", context=64, threads=2)
    except UsageError as error:
        sys.exit(40 if "was forked from" in str(error) and "spawn" in str(error) else 41)
    sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
# The engine of this process is as it was.
assert len([next(tokens), *tokens]) == 19
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("what", "code"),
    [("exit", 0), ("close", 0), ("delete", 0), ("generate", 40), ("continue", 40), ("open", 40)],
)
def test_a_forked_process_does_not_hang(what: str, code: int, demo: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(demo), what]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert (result.returncode, result.stderr) == (code, "")
