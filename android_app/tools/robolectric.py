# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What Robolectric, Android for tests on a JVM, has to find on its class path and disk."""

from __future__ import annotations

from pathlib import Path

from android_app.tools import libraries, steps
from android_app.tools.places import OUT
from android_app.tools.programs import jdk, run
from android_app.tools.resources import APPLICATION_ID, Resources


def robolectric(made: Resources) -> tuple[Path, dict[str, str]]:
    """A folder for the class path, and system properties."""
    android = libraries.one("android-all-instrumented")
    folder = OUT / "robolectric"
    config = (
        f"android_resource_apk={made.linked}\n"
        f"android_merged_manifest={made.manifest}\n"
        f"android_custom_package={APPLICATION_ID}\n"
    )

    def make() -> None:
        place = folder / "com/android/tools/test_config.properties"
        place.parent.mkdir(parents=True)
        place.write_text(config, "utf-8")
        # Robolectric has classes of Android in a loader of its own. Outside it, its annotation
        # @Config needs this name, and a whole Android would break its cryptography.
        source = folder / "android/app/Application.java"
        source.parent.mkdir(parents=True)
        source.write_text("package android.app; public class Application {}\n", "utf-8")
        run([jdk() / "bin/javac", "--release", "17", source], "compiling a class for Robolectric")
        (folder / "sdks").mkdir()
        (folder / "sdks" / android.name).symlink_to(android)

    steps.once(folder, [config, android], make)
    properties = {
        "robolectric.offline": "true",
        "robolectric.dependency.dir": str(folder / "sdks"),
    }
    return folder, properties
