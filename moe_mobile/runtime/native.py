# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The x86-64 runtime: the installed engine with this machine's glibc, gathered, not compiled."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import moe_mobile
from moe_mobile.errors import RuntimeFailedError, UnsupportedError
from moe_mobile.runner import RUNNER_VARIABLE, find_runner
from moe_mobile.runtime.elf import read_elf
from moe_mobile.runtime.folder import Recipe, Runtime, place_files, publish, sum_line
from moe_mobile.runtime.notice import notice

TARGET = "linux-x86_64"

# "\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f...)"
_RESOLVED = re.compile(r"^\s(\S+) => (.+) \(0x[0-9a-f]+\)$", re.MULTILINE)


@dataclass(frozen=True)
class Gathering:
    """The runtime of the installed engine before it is one folder.

    Args:
        recipe: its key is a digest of all its content.
        sources: where each of its files lies now.
        notice: the text of its NOTICE.
    """

    recipe: Recipe
    sources: Mapping[str, Path]
    notice: str


def assemble_native() -> Runtime:
    """The runtime of the engine that is installed now, gathered unless it is there already.

    Raises what :func:`gather` does, and IoError if the folder cannot be written.
    """
    gathering = gather()

    def fill(content: Path, scratch: Path) -> None:
        place_files(content, gathering.sources, gathering.notice)

    return publish(gathering.recipe, fill)


def gather() -> Gathering:
    """The files of the runtime of the engine that is installed now.

    Raises UnsupportedError on another kind of machine, RuntimeFailedError if the engine is not
    installed or a library is missing.
    """
    if platform.machine() != "x86_64":
        raise UnsupportedError(
            "the runtime for x86_64 can be made only on an x86-64 machine; this one is "
            f"{platform.machine()}",
            setting="target",
        )
    runner = find_runner()
    elf = read_elf(runner)
    if elf.machine != "x86_64":
        raise UnsupportedError(
            f"is made for {elf.machine}, but the runtime for x86_64 is built from it",
            file=runner,
            remedy=f"Install the package with its engine again; unset {RUNNER_VARIABLE} if it "
            "names that file",
        )
    interpreter = elf.interpreter
    if interpreter is None:
        raise UnsupportedError("is not a dynamically linked program", file=runner)
    loader = Path(interpreter).name
    sources = {
        "moe_runner": runner,
        loader: Path(interpreter),
        **{f"lib/{name}": path for name, path in _libraries(runner, interpreter).items()},
    }
    text = notice(sources)
    recipe = Recipe(
        target=TARGET,
        abi="x86_64",
        version=moe_mobile.__version__,
        executorch=importlib.metadata.version("executorch"),
        key=_key(sources, text),
        loader=loader,
    )
    return Gathering(recipe, sources, text)


def _libraries(runner: Path, interpreter: str) -> dict[str, Path]:
    """What the loader would load for ``runner``: names with where it finds them."""
    package = importlib.util.find_spec("executorch")
    places = [] if package is None else list(package.submodule_search_locations or ())
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("LD_")
    } | {"LD_LIBRARY_PATH": ":".join(f"{place}/lib" for place in places)}
    result = subprocess.run(
        [interpreter, "--list", str(runner)],
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
    )
    if result.returncode != 0 or "=> not found" in result.stdout:
        missing = re.findall(r"^\s(\S+) => not found", result.stdout, re.MULTILINE)
        what = ", ".join(missing) or result.stderr.strip()
        raise RuntimeFailedError(
            f"needs libraries that are not installed: {what}",
            file=runner,
            remedy="Install the package with its engine again; `moe-mobile doctor` checks it",
        )
    return {name: Path(path) for name, path in _RESOLVED.findall(result.stdout)}


def _key(sources: dict[str, Path], text: str) -> str:
    whole = hashlib.sha256(text.encode())
    for name, path in sorted(sources.items()):
        whole.update(sum_line(path, name))
    return whole.hexdigest()[:16]
