# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs JUnit tests."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from android_app.tools.places import OUT, ROOT
from android_app.tools.programs import jdk
from moe_mobile.errors import RuntimeFailedError

_SLOW = "SlowTest.kt"


def run_tests(
    name: str,
    sources: Path,
    class_path: Sequence[Path],
    properties: Mapping[str, str],
    *,
    slow: bool = False,
) -> int:
    """Run the tests in all files named *Test.kt, and say how many there were.

    ``slow``: those in files named *SlowTest.kt instead, which are left out otherwise. Raises
    RuntimeFailedError if one fails; what they print is shown as it comes.
    """
    files = [
        path for path in sorted(sources.rglob("*Test.kt")) if path.name.endswith(_SLOW) == slow
    ]
    classes = [str(path.relative_to(sources).with_suffix("")).replace("/", ".") for path in files]
    if not classes:
        return 0
    command = [
        *(jdk() / "bin/java", "-Xmx3g"),
        *(f"-D{name}={value}" for name, value in properties.items()),
        *("-cp", os.pathsep.join(map(str, class_path)), "org.junit.runner.JUnitCore", *classes),
    ]
    lines = []
    environment = {**os.environ, "MOE_MOBILE_STATE_DIR": str(OUT / "state")}
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
    found = re.search(r"^OK \((\d+) tests?\)", "".join(lines), re.MULTILINE)
    if process.returncode != 0 or found is None:
        raise RuntimeFailedError(
            f"{name}: tests failed", file=sources, remedy="What failed stands above"
        )
    return int(found[1])
