// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.compose)
}

val parts = rootProject.file("../build/android") // what `python -m android_app.tools parts` writes
val packageVersion = Regex("version = \"([0-9]+)\\.([0-9]+)\\.([0-9]+)\"")
    .find(rootProject.file("../pyproject.toml").readText())!!

android {
    namespace = "org.moemobile.app"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig {
        applicationId = "org.moemobile.app"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionName = packageVersion.groupValues.drop(1).joinToString(".")
        versionCode = packageVersion.groupValues.drop(1).fold(0) { code, part -> 100 * code + part.toInt() }
        ndk { abiFilters += "arm64-v8a" }
    }
    buildTypes {
        release {
            isMinifyEnabled = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"), "proguard-rules.pro")
        }
    }
    sourceSets["main"].assets.srcDir(parts.resolve("assets"))
    sourceSets["main"].jniLibs.srcDir(parts.resolve("runtime/lib"))
    // The engine is a program: it is started from the folder that libraries are extracted to.
    packaging { jniLibs { useLegacyPackaging = true; keepDebugSymbols += "**/*.so" } }
    testOptions { unitTests { isIncludeAndroidResources = true } }
}

dependencies {
    implementation(project(":engine"))
    implementation(platform(libs.compose.bom))
    implementation(libs.bundles.app)
    testImplementation(platform(libs.compose.bom))
    testImplementation(libs.bundles.app.test)
}
