# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds and tests the Android app without Gradle, an Android SDK or an NDK (docs/android-app.md).

`python -m android_app.tools test` and `... apk`, from the checkout. Java libraries and tools come
from Maven repositories through coursier; ``android_app/gradle/libs.versions.toml`` names them all.
"""
