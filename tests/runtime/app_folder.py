# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A runtime as an installed app has it, and what Android lets apps do."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mobile.runner import Launch
from moe_mobile.runtime import Runtime, lay_out

_SYSTEM_CALLS = Path(__file__).with_name("android_syscalls.txt")

MIN_SDK = 29
"""The oldest Android that the app runs on, as an API level: 10."""


def system_calls() -> dict[str, int]:
    """Those that Android allows apps on arm64, with the first API level that does."""
    lines = _SYSTEM_CALLS.read_text().splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {name: int(level) for name, level in pairs}


def allowed_calls() -> set[str]:
    """What the oldest Android allows; newer ones allow more."""
    return {name for name, level in system_calls().items() if level <= MIN_SDK}


@dataclass(frozen=True)
class App:
    """The engine in an installed app.

    Args:
        native: the folder that Android unpacks libraries to.
        links: the folder of links that the app makes.
        stated: what ``runtime.json`` says.
        files: the app's own folder.
    """

    native: Path
    links: Path
    stated: dict[str, Any]
    files: Path

    def command(self, *before: str | Path) -> list[str]:
        """How the app starts the engine; ``before``: what runs that program here."""
        program = [str(self.native / self.stated["runner"]), "--attached"]
        if self.stated["loader"] is not None:
            loader = [str(self.native / self.stated["loader"]), "--library-path", str(self.links)]
            program = [*loader, "--argv0", "moe_runner", *program]
        return started(self.files, *before, *program)

    def launch(self, *before: str | Path) -> Launch:
        """The same, for a :class:`moe_mobile.runner.Runner`."""
        return launch(self.command(*before))


def install(runtime: Runtime, folder: Path, *, runner: Path | None = None) -> App:
    """What Android and the app make of a runtime's part of an APK.

    Android unpacks ``lib/ABI/lib*.so`` to one folder, and nothing else; the app links libraries to
    the names by which they need each other.
    """
    packed, native = folder / "apk", folder / "native"
    lay_out(runtime, packed, runner=runner)
    native.mkdir()
    for path in (packed / "lib" / runtime.abi).glob("lib*.so"):
        shutil.copy(path, native)
    stated = json.loads((packed / "assets/runtime.json").read_text())
    files, links = folder / "files", folder / "files/links"
    links.mkdir(parents=True)
    for name, file in stated["libraries"].items():
        (links / name).symlink_to(native / file)
    return App(native, links, stated, files)


def started(files: Path, *command: str | Path) -> list[str]:
    """A command in an environment as an app gives it, of its own folders."""
    variables = {"TMPDIR": str(files), "MOE_MOBILE_STATE_DIR": os.environ["MOE_MOBILE_STATE_DIR"]}
    pairs = [f"{name}={value}" for name, value in variables.items()]
    return ["env", "-i", *pairs, *map(str, command)]


def launch(command: Sequence[str]) -> Launch:
    """Who waits for it waits for ever: an emulator is slow."""
    return Launch(command, "an app", work=lambda _: math.inf, explain=lambda *_: None)
