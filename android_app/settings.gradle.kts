// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

// For Android Studio. The project itself builds with android_app/tools: docs/android-app.md.
pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}
dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
    }
}
rootProject.name = "moe-mobile"
include(":app", ":engine")
