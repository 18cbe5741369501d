# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiles Kotlin."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from android_app.tools import libraries, steps
from android_app.tools.places import ENGINE, OUT, ROOT
from android_app.tools.programs import java

_COMPILER = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"


def compiled(
    name: str,
    sources: Path,
    class_path: Sequence[Path],
    *,
    friends: Sequence[Path] = (),
    compose: bool = False,
) -> Path:
    """The folder of the classes of all sources below a folder.

    ``friends``: classes whose internal parts may be used, as tests do. ``compose``: functions may
    be composable.
    """
    flags = ["-no-stdlib", "-no-reflect", "-jvm-target", "17", "-Werror", "-module-name", name]
    if friends:
        flags.append(f"-Xfriend-paths={','.join(map(str, friends))}")
    if compose:
        flags.append(f"-Xplugin={libraries.one('kotlin-compose')}")
    compiler = libraries.tool("kotlin-compiler")
    folder = OUT / "classes" / name

    def compile_all() -> None:
        path = os.pathsep.join(map(str, class_path))
        arguments: list[str | Path] = ["-classpath", path, "-d", folder, sources]
        what = f"compiling {sources.relative_to(ROOT)}"
        java(compiler, _COMPILER, *flags, *arguments, what=what, memory="3g")

    return steps.once(folder, [*flags, *compiler, *class_path, sources], compile_all)


def engine() -> tuple[Path, list[Path]]:
    """The classes of the engine's library, and the jars that it needs."""
    jars = libraries.class_path(libraries.bundles("engine"))
    return compiled("engine", ENGINE / "src/main/kotlin", jars), jars
