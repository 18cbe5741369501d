# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the APK: shrinks the code, packs, aligns and signs."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

from android_app.tools import catalogue, libraries, parts, steps
from android_app.tools.app import App, compiled_app
from android_app.tools.places import APP, JAVA, OUT
from android_app.tools.programs import java, jdk, run
from moe_mobile.errors import BundleInvalidError

APK = OUT / "moe-mobile.apk"
_ALIAS, _PASSWORD = "androiddebugkey", "android"
_PAGE_BYTES = 16 << 10
_SERVICES = "META-INF/services/"
# Files that are compressed already, or that Android maps into memory.
_STORED = (".arsc", ".png", ".webp")


def build_apk(runtime: Path | None) -> Path:
    """Build the APK with the engine of a folder, by default this installation's."""
    parts.take_runtime(runtime)
    app = compiled_app()
    code = _shrunk(app)
    libraries_ = native_libraries(app)
    unsigned = OUT / "unsigned.apk"
    steps.once(
        unsigned, [app.resources.linked, code, *libraries_], lambda: _pack(unsigned, app, code)
    )
    _sign(unsigned)
    return APK


def sizes(apk: Path) -> dict[str, int]:
    """Bytes of each part as it lies in the APK."""
    found = dict.fromkeys(("engine", "code", "demo bundle", "resources", "signature, names"), 0)
    with zipfile.ZipFile(apk) as opened:
        for entry in opened.infolist():
            found[_part(entry.filename)] += entry.compress_size
    found["signature, names"] += apk.stat().st_size - sum(found.values())
    return found


def _part(name: str) -> str:
    if name.startswith(("lib/", "assets/runtime/")):
        return "engine"
    if name.endswith(".dex"):
        return "code"
    return "demo bundle" if name.startswith("assets/bundles/") else "resources"


def _shrunk(app: App) -> Path:
    """A zip of the code that is used, as dex files."""
    target, folder = OUT / "dex.zip", OUT / "r8"
    r8, android = libraries.one("r8"), libraries.one("android-all")
    own_rules = APP / "proguard-rules.pro"
    rules = [app.resources.rules, own_rules]
    rules += [path for aar in app.aars if (path := aar / "proguard.txt").is_file()]

    def shrink() -> None:
        steps.remove(folder)
        folder.mkdir()
        zips = [
            shutil.make_archive(str(folder / str(number)), "zip", classes)
            for number, classes in enumerate(app.classes)
        ]
        # android-all has no java.* classes.
        where: list[str | Path] = ["--output", target, "--lib", android, "--lib", jdk()]
        where += ["--pg-map-output", OUT / "r8-mapping.txt"]
        where += [part for rule in rules for part in ("--pg-conf", rule)]
        flags = ("com.android.tools.r8.R8", "--release", "--min-api", catalogue.version("minSdk"))
        java([r8], *flags, *where, *app.jars, *zips, what="shrinking the code with R8", memory="5g")

    return steps.once(target, [r8, android, *app.jars, *rules, *app.classes], shrink)


def native_libraries(app: App) -> list[Path]:
    """The engine's files and the libraries' own, checked to load with pages of 16 KiB."""
    found = sorted((parts.RUNTIME / "lib/arm64-v8a").glob("lib*.so"))
    for aar in app.aars:
        found += sorted(aar.glob("jni/arm64-v8a/*.so"))
    for path in found:
        with path.open("rb") as file:
            loads = [one for one in ELFFile(file).iter_segments() if one["p_type"] == "PT_LOAD"]
        if any(one["p_align"] % _PAGE_BYTES for one in loads):
            raise BundleInvalidError(
                "it would not load on phones with pages of 16 KiB",
                file=path,
                remedy="Link it with -Wl,-z,max-page-size=16384",
            )
    return found


def _pack(target: Path, app: App, code: Path) -> None:
    with zipfile.ZipFile(target, "w") as packed:

        def add(name: str, data: bytes) -> None:
            # Equal inputs give equal bytes: entries have the oldest date that zip knows.
            method = zipfile.ZIP_STORED if name.endswith(_STORED) else zipfile.ZIP_DEFLATED
            packed.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)

        for source in (app.resources.linked, code):
            with zipfile.ZipFile(source) as opened:
                for entry in opened.infolist():
                    name = entry.filename
                    if source != code or name.endswith(".dex") or name.startswith(_SERVICES):
                        add(name, opened.read(name))
        for path in native_libraries(app):
            add(f"lib/arm64-v8a/{path.name}", path.read_bytes())


def _sign(unsigned: Path) -> None:
    """Sign with the key that Android Studio signs with too: then one APK can replace the other."""
    key = Path.home() / ".android/debug.keystore"
    if not key.is_file():
        key.parent.mkdir(parents=True, exist_ok=True)
        run(
            [
                *(jdk() / "bin/keytool", "-genkeypair", "-keystore", key, "-alias", _ALIAS),
                *("-storepass", _PASSWORD, "-keypass", _PASSWORD, "-keyalg", "RSA"),
                *(
                    "-keysize",
                    "2048",
                    "-validity",
                    "10000",
                    "-dname",
                    "CN=Android Debug,O=Android,C=US",
                ),
            ],
            "making a key",
        )
    apksig = libraries.tool("apksig")
    least = catalogue.version("minSdk")

    def sign() -> None:
        arguments = (key, _PASSWORD, _ALIAS, unsigned, APK, least)
        java(apksig, JAVA / "Sign.java", *arguments, what="signing the APK")

    steps.once(APK, [str(key.stat().st_mtime_ns), *apksig, unsigned, JAVA / "Sign.java"], sign)
