# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The app's resources: the merged manifest, the linked table with assets, and the R classes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import moe_mobile
from android_app.tools import catalogue, libraries, steps
from android_app.tools.places import APP, OUT
from android_app.tools.programs import java, jdk, run
from android_app.tools.r_classes import r_sources

APPLICATION_ID = "org.moemobile.app"
_MANIFEST = APP / "src/main/AndroidManifest.xml"
_RESOURCES = APP / "src/main/res"


@dataclass(frozen=True)
class Resources:
    """What was made of the resources.

    Attributes:
        manifest: merged with those of the libraries.
        linked: an APK with manifest, resources and assets only.
        rules: what of the code the manifest and layouts name, for R8.
        classes: of R.
    """

    manifest: Path
    linked: Path
    rules: Path
    classes: Path


def version_code() -> int:
    """The package's version as one number."""
    code = 0
    for part in moe_mobile.__version__.split("."):
        code = 100 * code + int(part)
    return code


def resources(aars: Sequence[Path], assets: Path) -> Resources:
    """Make what the sources and libraries have become one table. ``assets``: a folder."""
    aapt2, merger = _aapt2(), libraries.tool("manifest-merger")
    android = libraries.one("android-all")
    folder = OUT / "resources"
    made = Resources(
        folder / "AndroidManifest.xml",
        folder / "linked.apk",
        folder / "aapt2.pro",
        folder / "classes",
    )
    properties = {
        "PACKAGE": APPLICATION_ID,
        "MIN_SDK_VERSION": catalogue.version("minSdk"),
        "TARGET_SDK_VERSION": catalogue.version("targetSdk"),
        "VERSION_CODE": str(version_code()),
        "VERSION_NAME": moe_mobile.__version__,
    }

    def make() -> None:
        folder.mkdir()
        java(
            merger,
            *("com.android.manifmerger.Merger", "--main", _MANIFEST, "--out", made.manifest),
            *("--libs", os.pathsep.join(str(aar / "AndroidManifest.xml") for aar in aars)),
            *("--log", "WARNING"),
            *(
                part
                for name, value in properties.items()
                for part in ("--property", f"{name}={value}")
            ),
            what="merging the manifests",
        )
        compiled = []
        own = [aar / "res" for aar in aars if (aar / "res").is_dir()]
        for number, one in enumerate([*own, _RESOURCES]):
            compiled.append(folder / f"{number:03}.zip")
            run([aapt2, "compile", "--dir", one, "-o", compiled[-1]], f"compiling {one}")
        run(
            [
                *(aapt2, "link", "-o", made.linked, "-I", android, "--manifest", made.manifest),
                *("-A", assets, "--auto-add-overlay", "--no-version-vectors"),
                *("--output-text-symbols", folder / "R.txt", "--proguard", made.rules),
                *(part for one in compiled for part in ("-R", one)),
            ],
            "linking the resources",
        )
        sources = r_sources(folder / "java", folder / "R.txt", APPLICATION_ID, aars)
        javac: list[str | Path] = [
            jdk() / "bin/javac",
            "-nowarn",
            "--release",
            "17",
            "-d",
            made.classes,
        ]
        run([*javac, *sources], "compiling the R classes")

    inputs = [aapt2, *merger, android, *aars, _MANIFEST, _RESOURCES, assets]
    steps.once(folder, [*map(str, aars), *properties.values(), *inputs], make)
    return made


def _aapt2() -> Path:
    """aapt2 for Linux. Google's own package of it is not in Maven Central; apktool has one."""
    jar, path = libraries.one("apktool"), OUT / "aapt2"

    def take() -> None:
        with zipfile.ZipFile(jar) as opened:
            path.write_bytes(opened.read("prebuilt/linux/aapt2"))
        path.chmod(0o755)

    return steps.once(path, [jar], take)
