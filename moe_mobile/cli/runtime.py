# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile runtime`: the engine for phones."""

from __future__ import annotations

from typing import Any

import click

from moe_mobile.base.text import size
from moe_mobile.cli.commands import Group, examples
from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.types import Choice
from moe_mobile.runtime import TARGETS, Runtime, build_runtime, current_folders, runtimes_of


@click.group(
    cls=Group,
    epilog=examples("moe-mobile runtime build --target linux-arm64", "moe-mobile runtime list"),
)
def command() -> None:
    """Build the engine for phones, and show what was built.

    A runtime is a folder with the engine, ExecuTorch and a C library of its own: a phone needs
    nothing installed to run it from `adb shell`. Commands that use a phone send it there.
    """


@command.command(
    epilog=examples(
        "moe-mobile runtime build --target linux-arm64     # for phones, once per version",
        "moe-mobile runtime build --target linux-x86_64    # for emulators; made on use anyway",
        "moe-mobile runtime build --target android-arm64   # with an NDK: docs/phone-runtime.md",
        "moe-mobile runtime build --target app-arm64       # linux-arm64 as a part of an APK",
    )
)
@click.option(
    "--target",
    type=Choice(TARGETS),
    default=TARGETS[0],
    help="linux-arm64 needs Debian's g++-aarch64-linux-gnu; android-arm64 an NDK and an "
    "ExecuTorch build for Android; app-arm64 what linux-arm64 needs.",
)
@json_option
def build(target: str, as_json: bool) -> None:
    """Build the runtime of this version, unless it exists already.

    It is kept in ~/.cache/moe-mobile/runtime, or in the folder MOE_MOBILE_RUNTIME_DIR.
    """
    with ProgressBar() as progress:
        runtime = build_runtime(target, progress=progress)
    if as_json:
        echo_json(_as_dict(runtime))
    else:
        click.echo(
            f"{runtime.target}: moe-mobile {runtime.version}, ExecuTorch {runtime.executorch}, "
            f"{len(runtime.files)} files, {size(_bytes(runtime))}: {runtime.folder}"
        )


@command.command(
    "list", epilog=examples("moe-mobile runtime list", "moe-mobile runtime list --json")
)
@json_option
def list_command(as_json: bool) -> None:
    """Show the runtimes that were built, and which of them phones get."""
    runtimes = [runtime for target in TARGETS for runtime in runtimes_of(target)]
    used = current_folders()
    if as_json:
        echo_json({"runtimes": [_as_dict(r) | {"used": r.folder in used} for r in runtimes]})
        return
    for runtime in runtimes:
        mark = "*" if runtime.folder in used else " "
        click.echo(
            f"{mark} {runtime.target:<14}{runtime.version:<9}ExecuTorch {runtime.executorch:<8}"
            f"{size(_bytes(runtime)):>10}  {runtime.folder}"
        )
    if not runtimes:
        click.echo("none yet: `moe-mobile runtime build` makes the one for phones")
    elif not any(runtime.folder in used for runtime in runtimes):
        click.echo("none of this version: `moe-mobile runtime build` makes the one for phones")


def _bytes(runtime: Runtime) -> int:
    return sum((runtime.folder / name).stat().st_size for name in runtime.files)


def _as_dict(runtime: Runtime) -> dict[str, Any]:
    return {
        "target": runtime.target,
        "abi": runtime.abi,
        "version": runtime.version,
        "executorch": runtime.executorch,
        "folder": str(runtime.folder),
        "loader": runtime.loader or None,
        "files": list(runtime.files),
        "bytes": _bytes(runtime),
        "digest": runtime.digest,
    }
