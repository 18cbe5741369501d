# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Running CMake and ninja on the engine's sources, with progress and readable failures."""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_mobile.base.progress import Progress
from moe_mobile.errors import RuntimeFailedError, UnsupportedError
from moe_mobile.runtime.sources import find_sources

_MINIMUM = (3, 28)
_LAST_LINES = 25
_LABEL = "compiling the engine"
_STEP = re.compile(r"^\[(\d+)/(\d+)\] ")

# Flags for this machine's compiler, set by shells and conda, are wrong for another machine's.
_FOREIGN = {
    "CC", "CXX", "CPP", "LD", "AR", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CPATH",
    "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "CMAKE_PREFIX_PATH",
    "CMAKE_TOOLCHAIN_FILE", "CMAKE_GENERATOR", "CMAKE_BUILD_TYPE",
}  # fmt: skip


def find_tool(name: str) -> str:
    """Path of ``cmake`` or ``ninja``: this Python environment's, else the one on PATH.

    Raises UnsupportedError if there is none, or only a CMake that is too old.
    """
    remedy = f"Install it: `{sys.executable} -m pip install cmake ninja`"
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if path is None:
        raise UnsupportedError(
            f"building for a phone needs {name}, which is not installed", remedy=remedy
        )
    if name == "cmake":
        answer = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"version (\d+)\.(\d+)", answer)
        if found is None or (int(found[1]), int(found[2])) < _MINIMUM:
            version = f"is version {found[1]}.{found[2]}" if found else "does not run"
            raise UnsupportedError(
                f"{version}, and at least {_MINIMUM[0]}.{_MINIMUM[1]} is needed",
                file=path,
                remedy=remedy,
            )
    return path


def build(
    preset: str,
    definitions: Mapping[str, str],
    folder: Path,
    progress: Progress,
    *,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Build ``moe_runner`` in ``folder`` with a preset of CMakePresets.json; returns the program.

    ``definitions`` and ``environment`` add to the preset's. Raises UnsupportedError if CMake or
    ninja is missing, RuntimeFailedError with the last lines of their output if the build fails.
    """
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    extra = {"CMAKE_MAKE_PROGRAM": ninja, "Python_EXECUTABLE": sys.executable, **definitions}
    configure = [cmake, "-S", str(find_sources()), "-B", str(folder), "--preset", preset]
    configure += [f"-D{name}={value}" for name, value in extra.items()]
    variables = _clean_environment() | dict(environment or {})
    progress(_LABEL, 0, 1)
    _run(configure, variables, progress)
    _run([cmake, "--build", str(folder), "--target", "moe_runner"], variables, progress)
    return folder / "bin" / "moe_runner"


def _clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    # Messages are shown and searched: in English.
    return kept | {"LC_ALL": "C.UTF-8", "NINJA_STATUS": "[%f/%t] "}


def _run(command: Sequence[str], environment: Mapping[str, str], progress: Progress) -> None:
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    assert process.stdout is not None
    try:
        with process.stdout:
            for line in process.stdout:
                step = _STEP.match(line)
                if step is not None:
                    progress(_LABEL, int(step[1]), int(step[2]))
                last.append(line.rstrip())
        code = process.wait()
    except BaseException:
        process.terminate()  # ninja then ends the compilers
        process.wait()
        raise
    if code != 0:
        tail = "\n".join(f"    {line}" for line in last)
        raise RuntimeFailedError(
            f"{_LABEL} failed; the last lines of {' '.join(command)}:\n{tail}",
            remedy="GCC 12 is known to work; with it or a newer one, please report this",
        )
