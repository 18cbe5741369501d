# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine against Android's own C library, for people with an NDK and ExecuTorch for Android."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import moe_mobile
from moe_mobile.base import limits
from moe_mobile.base.command_line import command_line
from moe_mobile.base.files import read_regular
from moe_mobile.base.pins import executorch_version
from moe_mobile.base.progress import Progress
from moe_mobile.errors import UnsupportedError
from moe_mobile.runtime.cmake import build
from moe_mobile.runtime.folder import Recipe, Runtime, place_files, publish, sum_line
from moe_mobile.runtime.notice import notice
from moe_mobile.runtime.sources import find_sources, sources_digest

TARGET = "android-arm64"

NDK_VARIABLES = ("ANDROID_NDK", "ANDROID_NDK_ROOT", "ANDROID_NDK_HOME")
"""Environment variables that may name the NDK; the first that is set does."""

EXECUTORCH_VARIABLE = "EXECUTORCH_ANDROID_DIR"
"""Environment variable that names an install of ExecuTorch's CMake build for arm64-v8a."""

_PAGE = "docs/phone-runtime.md"
_TOOLCHAIN = Path("build/cmake/android.toolchain.cmake")
_REVISION = Path("source.properties")
_PACKAGE = Path("lib/cmake/ExecuTorch/executorch-config.cmake")


def find_ndk() -> Path:
    """Folder of the NDK. Raises UnsupportedError if no variable names one."""
    for variable in NDK_VARIABLES:
        value = os.environ.get(variable)
        if not value:
            continue
        folder = Path(value).absolute()
        if not (folder / _TOOLCHAIN).is_file():
            raise UnsupportedError(
                f"does not name an Android NDK: {folder / _TOOLCHAIN} is missing",
                setting=variable,
                remedy="Name the folder that holds the NDK's source.properties",
            )
        return folder
    first, *others = NDK_VARIABLES
    raise UnsupportedError(
        "building for Android's own C library needs an Android NDK, and no variable names one",
        setting=first,
        remedy=f"Set {first} (or {', or '.join(others)}) to its folder. Or run "
        f"`{command_line('runtime build', target='linux-arm64')}`: it needs no NDK, and its "
        "result runs on phones too",
    )


def find_executorch() -> Path:
    """Folder of the installed ExecuTorch build. Raises UnsupportedError if there is none."""
    value = os.environ.get(EXECUTORCH_VARIABLE)
    if not value:
        raise UnsupportedError(
            f"building for Android needs ExecuTorch {executorch_version()} built for it, and no "
            "variable names that build",
            setting=EXECUTORCH_VARIABLE,
            remedy=f"Set it to the folder that ExecuTorch's build was installed to; {_PAGE} says "
            "how to build it",
        )
    folder = Path(value).absolute()
    if not (folder / _PACKAGE).is_file():
        raise UnsupportedError(
            f"does not name an installed ExecuTorch build: {folder / _PACKAGE} is missing",
            setting=EXECUTORCH_VARIABLE,
            remedy=f"Name the CMAKE_INSTALL_PREFIX of that build, after its install; see {_PAGE}",
        )
    return folder


def build_android(progress: Progress) -> Runtime:
    """The engine for Android's own C library, built unless it is there already.

    Raises UnsupportedError if the NDK, ExecuTorch's build, CMake or ninja is missing, IoError
    if the folder cannot be written, RuntimeFailedError if compiling fails.
    """
    ndk, executorch = find_ndk(), find_executorch()

    def fill(content: Path, scratch: Path) -> None:
        runner = build(
            TARGET,
            {"MOE_EXECUTORCH_DIR": str(executorch)},
            scratch / "build",
            progress,
            # The preset's toolchain file looks for the NDK as we did.
            environment={NDK_VARIABLES[0]: str(ndk)},
        )
        files = {"moe_runner": runner}
        place_files(content, files, notice(files, static=True))

    return publish(_recipe(ndk, executorch), fill)


def _recipe(ndk: Path, executorch: Path) -> Recipe:
    whole = hashlib.sha256(f"{moe_mobile.__version__}\n".encode())
    whole.update(sources_digest(find_sources()).encode())
    revision = ndk / _REVISION
    whole.update(read_regular(revision, limits.OWN_BYTES) if revision.is_file() else bytes(ndk))
    libraries = [path for path in (executorch / "lib").rglob("*") if path.is_file()]
    for path in sorted(libraries):
        whole.update(sum_line(path, str(path.relative_to(executorch))))
    return Recipe(
        target=TARGET,
        abi="arm64-v8a",
        version=moe_mobile.__version__,
        executorch=executorch_version(),
        key=whole.hexdigest()[:16],
        loader="",
    )
