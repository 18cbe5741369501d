# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine for phones: folders that ``adb shell`` or an app can run it from without more.

docs/phone-runtime.md describes their layout and what they need from a phone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from moe_mobile.base.progress import Progress, silent
from moe_mobile.errors import MoeMobileError, UnsupportedError
from moe_mobile.runtime.android import build_android
from moe_mobile.runtime.app import build_app, lay_out
from moe_mobile.runtime.cross import build_arm64
from moe_mobile.runtime.cross import recipe as arm64_recipe
from moe_mobile.runtime.folder import (
    ROOT_VARIABLE,
    Runtime,
    build_command,
    read_runtime,
    runtimes_of,
    target_folder,
)
from moe_mobile.runtime.native import assemble_native, gather

__all__ = [
    "ROOT_VARIABLE",
    "TARGETS",
    "Runtime",
    "build_runtime",
    "current_folders",
    "find_runtime",
    "lay_out",
    "runtimes_of",
    "target_folder",
]

TARGETS = ("linux-arm64", "linux-x86_64", "android-arm64", "app-arm64")
"""What :func:`build_runtime` can build; `adb shell` of phones gets the first two."""


def find_runtime(abi: str) -> Runtime:
    """The runtime of this installation for phones of ``abi`` (``arm64-v8a`` or ``x86_64``).

    That of x86_64 is gathered on the spot if needed, in well under a second.

    Raises UnsupportedError for another ABI, and if the runtime for arm64 was never built or is
    of another version; BundleCorruptError if its files were changed. The remedy is in each.
    """
    if abi == "x86_64":
        return assemble_native()
    if abi != "arm64-v8a":
        raise UnsupportedError(
            f"there is no runtime for phones of ABI {abi}",
            remedy="64-bit phones are supported: arm64-v8a, and x86_64 for emulators",
        )
    recipe = arm64_recipe()
    folder = target_folder(recipe.target) / recipe.key
    if folder.is_dir():
        return read_runtime(folder)
    remedy = f"Run `{build_command(recipe.target)}`"
    for older in runtimes_of(recipe.target)[:1]:
        raise UnsupportedError(
            f"the runtime for phones is of an older build (moe-mobile {older.version}, ExecuTorch "
            f"{older.executorch}) than the engine's sources here",
            file=older.folder,
            remedy=remedy,
        )
    raise UnsupportedError(
        "the runtime for arm64 phones has not been built on this machine",
        file=folder.parent,
        remedy=remedy,
    )


def build_runtime(target: str, *, progress: Progress = silent) -> Runtime:
    """The runtime of this installation for ``target``, built unless it is there already.

    Raises UnsupportedError for an unknown target and if a tool is missing, IoError (or
    ReadOnlyError, DiskFullError) if ExecuTorch cannot be downloaded or a folder not be written,
    RuntimeFailedError if the compiler fails.
    """
    if target == "linux-x86_64":
        return assemble_native()
    if target == "linux-arm64":
        return build_arm64(progress)
    if target == "android-arm64":
        return build_android(progress)
    if target == "app-arm64":
        return build_app(progress)
    raise UnsupportedError(
        f"unknown target {target}", setting="target", remedy=f"Known are {', '.join(TARGETS)}"
    )


def current_folders() -> set[Path]:
    """Where the runtimes that phones get from this installation are, or would be built."""
    folders = set()
    for recipe_of in (arm64_recipe, lambda: gather().recipe):
        with contextlib.suppress(MoeMobileError):
            recipe = recipe_of()
            folders.add(target_folder(recipe.target) / recipe.key)
    return folders
