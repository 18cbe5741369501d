# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The arm64 runtime: the engine cross-compiled, with ExecuTorch and glibc for arm64."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import moe_mobile
from moe_mobile.base.pins import executorch_version
from moe_mobile.base.progress import Progress
from moe_mobile.errors import RuntimeFailedError, UnsupportedError
from moe_mobile.runtime.cmake import build, find_tool
from moe_mobile.runtime.elf import read_elf
from moe_mobile.runtime.folder import Recipe, Runtime, place_files, publish
from moe_mobile.runtime.notice import notice
from moe_mobile.runtime.sources import find_sources, sources_digest
from moe_mobile.runtime.wheel import WHEEL_SHA256, fetch_wheel, unpack_wheel

TARGET = "linux-arm64"

_COMPILER = "aarch64-linux-gnu-g++"
_LOADER = "ld-linux-aarch64.so.1"


def recipe() -> Recipe:
    """What the arm64 runtime of this installation is made of."""
    parts = (moe_mobile.__version__, WHEEL_SHA256, sources_digest(find_sources()))
    return Recipe(
        target=TARGET,
        abi="arm64-v8a",
        version=moe_mobile.__version__,
        executorch=executorch_version(),
        key=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
        loader=_LOADER,
    )


def build_arm64(progress: Progress) -> Runtime:
    """The arm64 runtime of this installation, built unless it is there already.

    Raises UnsupportedError if the cross compiler, CMake or ninja is missing, IoError if
    ExecuTorch cannot be downloaded or the folder not be written, RuntimeFailedError if
    compiling fails.
    """

    def fill(content: Path, scratch: Path) -> None:
        compiler = _compiler()
        for tool in ("cmake", "ninja"):
            find_tool(tool)  # before the download
        executorch = unpack_wheel(fetch_wheel(scratch, progress), scratch / "wheel")
        definitions = {"MOE_EXECUTORCH_DIR": str(executorch)}
        runner = build(TARGET, definitions, scratch / "build", progress)
        files = {"moe_runner": runner, _LOADER: _library_of(compiler, _LOADER)}
        files |= _closure(runner, executorch / "lib", compiler)
        place_files(content, files, notice(files))

    return publish(recipe(), fill)


def _compiler() -> str:
    path = shutil.which(_COMPILER)
    if path is None:
        raise UnsupportedError(
            f"the cross compiler is not installed: no {_COMPILER} on PATH",
            remedy="Install it: `apt-get install g++-aarch64-linux-gnu` on Debian and Ubuntu",
        )
    return path


def _closure(runner: Path, wheel: Path, compiler: str) -> Mapping[str, Path]:
    """The libraries that ``runner`` needs, and those that they need, as files of the runtime."""
    found: dict[str, Path] = {}
    waiting = [runner]
    while waiting:
        for name in read_elf(waiting.pop()).needed:
            place = f"lib/{name}"
            if name != _LOADER and place not in found:
                bundled = wheel / name
                found[place] = bundled if bundled.is_file() else _library_of(compiler, name)
                waiting.append(found[place])
    return found


def _library_of(compiler: str, name: str) -> Path:
    """The file the compiler links for ``name``, in its own folders or the cross sysroot."""
    answer = subprocess.run(
        [compiler, f"-print-file-name={name}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    path = Path(answer)
    # The bare name comes back if there is no such file.
    if not path.is_absolute() or not path.is_file():
        raise RuntimeFailedError(
            f"{compiler} has no {name} for arm64",
            remedy="Install it: `apt-get install libc6-arm64-cross libstdc++6-arm64-cross`",
        )
    return path
