# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiles the app, and tests the engine's library and the app."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from android_app.tools import junit, kotlin, libraries, parts
from android_app.tools.places import APP, ENGINE
from android_app.tools.resources import Resources, resources
from android_app.tools.robolectric import robolectric


@dataclass(frozen=True)
class App:
    """The compiled app, without R8.

    Attributes:
        classes: its own, those of R and of the engine's library: folders.
        jars: libraries.
        aars: unpacked libraries with more than code.
    """

    classes: list[Path]
    jars: list[Path]
    aars: list[Path]
    resources: Resources


def compiled_app() -> App:
    """Compile the engine's library and the app."""
    files = libraries.bundles("app")
    jars, aars = libraries.class_path(files), libraries.aars(files)
    made = resources(aars, parts.assets())
    engine, _ = kotlin.engine()
    path = [libraries.one("android-all"), made.classes, engine, *jars]
    own = kotlin.compiled("app", APP / "src/main/kotlin", path, compose=True)
    return App([own, made.classes, engine], jars, aars, made)


def run_engine_tests(*, slow: bool = False) -> int:
    """Run the tests of the engine's library."""
    engine, _ = kotlin.engine()
    jars = libraries.class_path(libraries.bundles("engine", "engine-test"))
    sources = ENGINE / "src/test/kotlin"
    tests = kotlin.compiled("engine-test", sources, [engine, *jars], friends=[engine])
    return junit.run_tests(
        "engine", sources, [tests, engine, *jars], parts.test_properties(), slow=slow
    )


def run_app_tests(*, record: bool = False) -> int:
    """Run the app's tests. ``record``: screenshots are written, otherwise compared."""
    app = compiled_app()
    jars = libraries.class_path(libraries.bundles("app", "app-test"))
    sources = APP / "src/test/kotlin"
    tests = kotlin.compiled(
        "app-test",
        sources,
        [libraries.one("android-all"), *app.classes, *jars],
        friends=app.classes[:1],
        compose=True,
    )
    folder, properties = robolectric(app.resources)
    properties |= parts.test_properties()
    properties[f"roborazzi.test.{'record' if record else 'verify'}"] = "true"
    return junit.run_tests("app", sources, [tests, *app.classes, folder, *jars], properties)
