# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Downloads libraries and Java tools, with all that they need."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from android_app.tools import catalogue, steps
from android_app.tools.places import JAVA, OUT
from android_app.tools.programs import java, run
from moe_mobile.errors import MoeMobileError

_NETWORK = (
    "Check the connection to Maven repositories. What was downloaded stays in coursier's cache "
    "and is not asked for again"
)
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"


def one(library: str) -> Path:
    """A library of the list without what it needs: a tool in one file."""
    return _fetch([f"one {catalogue.coordinates(library)}"])[0]


def tool(library: str) -> list[Path]:
    """A Java tool of the list as a class path."""
    return _fetch([f"dep {catalogue.coordinates(library)}"])


def bundles(*names: str) -> list[Path]:
    """Jars and AARs of the list's bundles, in versions that fit each other."""
    platforms = [f"bom {catalogue.coordinates(name)}" for name in catalogue.bundle("platforms")]
    wanted = [
        f"dep {catalogue.coordinates(one)}" for name in names for one in catalogue.bundle(name)
    ]
    return _fetch([*platforms, *wanted])


def class_path(files: Sequence[Path]) -> list[Path]:
    """The jars to compile and run with, those of AARs too.

    Left out are the jars of multiplatform libraries that only describe their platforms, and JVM
    twins of Android libraries.
    """
    names = {path.name for path in files}

    def has_classes(jar: Path) -> bool:
        twin = jar.name.replace("-jvm-", "-android-").replace(".jar", ".aar")
        if twin in names:
            return False
        with zipfile.ZipFile(jar) as opened:
            return "META-INF/kotlin-project-structure-metadata.json" not in opened.namelist()

    jars = [path for path in files if path.suffix == ".jar" and has_classes(path)]
    for aar in aars(files):
        jars += [
            jar for jar in (aar / "classes.jar", *sorted(aar.glob("libs/*.jar"))) if jar.exists()
        ]
    return jars


def aars(files: Sequence[Path]) -> list[Path]:
    """The folders of the unpacked AARs."""
    return [_unpacked(path) for path in files if path.suffix == ".aar"]


def _unpacked(aar: Path) -> Path:
    # Group, name and version are folders of the cache.
    folder = OUT / "aar" / "_".join(aar.parts[-5:-1])

    def unpack() -> None:
        with zipfile.ZipFile(aar) as opened:
            opened.extractall(folder)

    return steps.once(folder, [aar], unpack)


def _fetch(request: Sequence[str]) -> list[Path]:
    """The files of a request to Resolve.java. They stay where coursier keeps them."""
    answer = OUT / "resolved" / f"{steps.digest(request)[:16]}.txt"
    if answer.is_file():
        known = [Path(line) for line in answer.read_text("utf-8").splitlines()]
        if all(path.is_file() for path in known):
            return known
    # Google's repository has what Android needs and Maven Central does not have.
    os.environ.setdefault("COURSIER_REPOSITORIES", "central|google")
    try:
        told = java(
            [_coursier()],
            JAVA / "Resolve.java",
            what="downloading libraries",
            stdin="\n".join(request),
        )
    except MoeMobileError as error:
        raise error.replaced(remedy=_NETWORK) from None
    answer.parent.mkdir(parents=True, exist_ok=True)
    answer.write_text(told, "utf-8")
    return [Path(line) for line in told.splitlines()]


def _coursier() -> Path:
    """coursier's interface, the only jar that Maven itself has to bring."""
    artifact = catalogue.coordinates("coursier")
    _, name, version = artifact.split(":")
    jar = OUT / "resolved" / f"{name}-{version}.jar"
    if not jar.is_file():
        run(
            ["mvn", "-q", "-B", _COPY, f"-Dartifact={artifact}", f"-DoutputDirectory={jar.parent}"],
            "downloading coursier with Maven",
            remedy=f"It needs Maven (`apt-get install maven`). {_NETWORK}",
        )
    return jar
