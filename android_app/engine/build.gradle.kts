// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

// The Kotlin side of the engine. It has no Android class in it, so its tests run on any JVM. The
// C++ side in src/main/cpp is built by CMake and runs as a process of its own.
plugins { alias(libs.plugins.kotlin.jvm) }

kotlin { jvmToolchain(17) }

dependencies {
    implementation(libs.bundles.engine)
    testImplementation(libs.bundles.engine.test)
}

tasks.test {
    // `python -m android_app.tools parts` writes what the tests run with.
    val parts = rootProject.file("../build/android/test-parts.properties")
    doFirst { parts.readLines().forEach { line -> line.split("=", limit = 2).let { systemProperty(it[0], it[1]) } } }
}
