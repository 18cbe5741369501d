# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Running other programs: their output becomes part of the error if they fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from android_app.tools.places import ROOT
from moe_mobile.errors import RuntimeFailedError, UnsupportedError

_LEAST_JDK = 17
_JDK_REMEDY = (
    "Install JDK 17 (`apt-get install openjdk-17-jdk-headless`), or set JAVA_HOME to a newer one"
)
_LAST_LINES = 60


def run(
    command: Sequence[str | Path],
    what: str,
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    remedy: str | None = None,
) -> str:
    """Run a program to its end in the checkout, and return what it wrote to stdout.

    ``what``: the work, as an error names it. Raises RuntimeFailedError with its last lines if it
    fails.
    """
    print(what, flush=True)
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise RuntimeFailedError(
            f"{what}: {command[0]} cannot be started: {error.strerror}", remedy=remedy
        ) from error
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise RuntimeFailedError(
            f"{what} failed with exit code {done.returncode}:\n" + "\n".join(lines[-_LAST_LINES:]),
            remedy=remedy,
        )
    return done.stdout


def java(
    class_path: Sequence[Path], *arguments: str | Path, what: str, stdin: str = "", memory: str = ""
) -> str:
    """Run a Java class, or a source file, with that class path."""
    memory_flags = [f"-Xmx{memory}"] if memory else []
    path = os.pathsep.join(map(str, class_path))
    command = [jdk() / "bin/java", *memory_flags, "-cp", path, *arguments]
    return run(command, what, stdin=stdin)


@cache
def jdk() -> Path:
    """The folder of the JDK: $JAVA_HOME, else that of the ``javac`` that is on the path.

    Raises UnsupportedError if there is none, or an older one.
    """
    home = os.environ.get("JAVA_HOME")
    found = Path(home, "bin/javac") if home else shutil.which("javac")
    if found is None or not Path(found).is_file():
        place = "JAVA_HOME" if home else None
        raise UnsupportedError("there is no JDK", setting=place, remedy=_JDK_REMEDY)
    told = subprocess.run([found, "-version"], capture_output=True, text=True)
    number = re.search(r"javac (\d+)", told.stdout + told.stderr)
    if number is None or int(number[1]) < _LEAST_JDK:
        raise UnsupportedError(
            f"the JDK is too old: {(told.stdout + told.stderr).strip()[:100]}",
            file=found,
            remedy=_JDK_REMEDY,
        )
    return Path(found).resolve().parents[1]
