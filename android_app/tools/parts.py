# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the app contains besides code: the demo bundle, and the engine for phones."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from android_app.tools import steps
from android_app.tools.expected import expected_answers
from android_app.tools.places import OUT, ROOT
from android_app.tools.programs import run
from moe_mobile.errors import UnsupportedError
from moe_mobile.runner import find_runner
from moe_mobile.runtime import build_runtime
from moe_mobile.runtime.native import assemble_native

ASSETS = OUT / "assets"
"""The app's assets, as the APK has them."""

RUNTIME = OUT / "runtime"
"""The engine for phones as an APK has it: ``lib/arm64-v8a/lib*.so``, and ``assets`` with NOTICE and
runtime.json, which says what each of them is."""

TEST_PARTS = OUT / "test-parts.properties"
"""What the tests run with, as system properties; Gradle reads it too."""

_TARGET = "app-arm64"
# What an export of the demo model depends on.
_EXPORT = ("base", "bundle", "demo", "export", "model", "text")


def demo_bundle() -> Path:
    """The demo model's bundle, exported as ``moe-mobile export demo`` does it."""
    folder = OUT / "demo"
    sources = [ROOT / "moe_mobile" / room for room in _EXPORT]

    def export() -> None:
        run(
            [sys.executable, "-m", "moe_mobile", "export", "demo", folder],
            "exporting the demo model",
        )

    return steps.once(folder, [ROOT / "pyproject.toml", *sources], export)


def assets() -> Path:
    """The folder of assets: the demo bundle, and what says how the engine is started.

    The latter is there only if :data:`RUNTIME` is: tests have an engine of their own.
    """
    demo = demo_bundle()
    described = [
        path for name in ("runtime.json", "NOTICE") if (path := RUNTIME / "assets" / name).is_file()
    ]

    def copy() -> None:
        shutil.copytree(demo, ASSETS / "bundles/demo")
        for path in described:
            (ASSETS / "runtime").mkdir(exist_ok=True)
            shutil.copy(path, ASSETS / "runtime" / path.name)

    return steps.once(ASSETS, [demo, *described], copy)


def take_runtime(folder: Path | None) -> None:
    """Make :data:`RUNTIME` a copy of a folder, by default of the runtime of this installation."""
    if folder is None:
        folder = build_runtime(_TARGET).folder
    libraries = sorted((folder / "lib/arm64-v8a").glob("lib*.so"))
    described = [folder / "assets" / name for name in ("runtime.json", "NOTICE")]
    missing = [path for path in described if not path.is_file()]
    if not libraries or missing:
        raise UnsupportedError(
            f"this is not a runtime for the app: there is no assets/{missing[0].name}"
            if missing
            else "this is not a runtime for the app: lib/arm64-v8a has no lib*.so",
            file=folder,
            remedy=f"Build one with `moe-mobile runtime build --target {_TARGET}`",
        )

    def copy() -> None:
        (RUNTIME / "lib/arm64-v8a").mkdir(parents=True)
        for path in libraries:
            shutil.copy(path, RUNTIME / "lib/arm64-v8a" / path.name)
        (RUNTIME / "assets").mkdir()
        for path in described:
            shutil.copy(path, RUNTIME / "assets" / path.name)

    # A folder may lie outside the checkout, where names alone count.
    hashes = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in libraries]
    steps.once(
        RUNTIME, [str(folder), *hashes, *(path.read_text("utf-8") for path in described)], copy
    )


def test_properties() -> dict[str, str]:
    """System properties of the tests: this machine's engine, the bundle, and Python's answers."""
    demo = demo_bundle()
    properties = {
        "moe.runner": str(find_runner()),
        "moe.demo": str(demo),
        "moe.expected": str(expected_answers(demo)),
        "moe.runtime": str(assemble_native().folder),
    }
    lines = [f"{name}={value}\n" for name, value in properties.items()]
    TEST_PARTS.write_text("".join(lines), "utf-8")
    return properties
