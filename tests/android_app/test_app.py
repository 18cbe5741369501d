# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The app and its library of the engine, compiled and tested with the real engine; and the APK."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from android_app.tools import apk, libraries, parts, places, programs
from android_app.tools.places import OUT
from moe_mobile.errors import UnsupportedError


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    """What `apt-get install openjdk-17-jdk-headless maven` brings."""
    programs.jdk.cache_clear()
    try:
        programs.jdk()
    except UnsupportedError as error:
        pytest.skip(f"the app's tests are left out: {error}")
    if shutil.which("mvn") is None:
        pytest.skip("the app's tests are left out: they need Maven (`apt-get install maven`)")


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "android_app.tools", *arguments]
    done = subprocess.run(command, cwd=places.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


def test_the_library_and_the_app() -> None:
    told = _run("test")
    assert "tests of the app passed" in told
    # What did not change is neither downloaded nor compiled again.
    again = _run("test")
    assert [
        line for line in again.splitlines() if "ompiling" in line or "downloading" in line
    ] == []


@pytest.mark.slow
def test_the_apk(tmp_path: Path) -> None:
    """With an arm64 library of AndroidX in place of the engine, which other tests build."""
    unpacked = libraries.aars(libraries.bundles("app"))
    library = next(path for aar in unpacked for path in aar.glob("jni/arm64-v8a/*.so"))
    (tmp_path / "lib/arm64-v8a").mkdir(parents=True)
    (tmp_path / "assets").mkdir()
    shutil.copy(library, tmp_path / "lib/arm64-v8a/libmoe_runner.so")
    stated: dict[str, object] = {"loader": None, "runner": "libmoe_runner.so", "libraries": {}}
    (tmp_path / "assets/runtime.json").write_text(json.dumps(stated))
    (tmp_path / "assets/NOTICE").write_text("By whom it is.")
    told = _run("apk", "--runtime", str(tmp_path))
    assert "demo bundle" in told
    with zipfile.ZipFile(apk.APK) as opened:
        names = set(opened.namelist())
        demo = {f"assets/bundles/demo/{p.relative_to(parts.demo_bundle())}" for p in _demo_files()}
        assert demo <= names
        assert {"classes.dex", "resources.arsc", "AndroidManifest.xml"} <= names
        assert json.loads(opened.read("assets/runtime/runtime.json")) == stated
        assert opened.read("lib/arm64-v8a/libmoe_runner.so") == library.read_bytes()
        natives = [name for name in names if name.endswith(".so")]
        assert len(natives) == 2
        for name in natives:
            path = Path(opened.extract(name, tmp_path / "unpacked"))
            with path.open("rb") as file:
                loads = [s for s in ELFFile(file).iter_segments() if s["p_type"] == "PT_LOAD"]
            assert all(load["p_align"] % (16 << 10) == 0 for load in loads)
    assert sum(apk.sizes(apk.APK).values()) == apk.APK.stat().st_size
    assert (OUT / "r8-mapping.txt").is_file()
    if shutil.which("apksigner"):
        command = ["apksigner", "verify", "--min-sdk-version", "29", str(apk.APK)]
        assert subprocess.run(command, capture_output=True).returncode == 0


def _demo_files() -> list[Path]:
    return [path for path in parts.demo_bundle().rglob("*") if path.is_file()]
