# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The app's build: what it makes again, what it says if something is missing, and its lists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from android_app.tools import apk, catalogue, parts, places, programs, r_classes, resources, steps
from moe_mobile.errors import BundleInvalidError, RuntimeFailedError, UnsupportedError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_jdk_is_remembered() -> Iterator[None]:
    programs.jdk.cache_clear()
    yield
    programs.jdk.cache_clear()


def _javac(folder: Path, version: str) -> Path:
    program = folder / "bin/javac"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho javac {version}\n")
    program.chmod(0o755)
    return folder


def test_a_missing_or_old_jdk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UnsupportedError, match=r"JAVA_HOME.*no JDK.*openjdk-17") as missing:
        programs.jdk()
    assert missing.value.setting == "JAVA_HOME"
    _javac(tmp_path, "11.0.2")
    with pytest.raises(UnsupportedError, match=r"too old: javac 11.0.2.*JDK 17"):
        programs.jdk()


def test_without_java_home_the_path_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(_javac(tmp_path, "21.0.1") / "bin"))
    assert programs.jdk() == tmp_path.resolve()


def test_a_failed_program_has_its_last_words() -> None:
    script = "import sys; print('far ' * 9); print('no such class', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RuntimeFailedError, match=r"(?s)compiling failed with exit code 3.*class"):
        programs.run([sys.executable, "-c", script], "compiling")
    with pytest.raises(RuntimeFailedError, match=r"cannot be started.*apt-get install maven"):
        programs.run(["no-such-program"], "downloading", remedy="`apt-get install maven`")


def test_a_step_runs_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    sources, target = tmp_path / "src", tmp_path / "out/target"
    sources.mkdir()
    (sources / "a.kt").write_text("a")
    made = []

    def make() -> None:
        assert not target.exists()
        target.mkdir()
        made.append(1)

    def times(*inputs: str | Path) -> int:
        steps.once(target, [sources, *inputs], make)
        return len(made)

    assert [times(), times()] == [1, 1]
    (sources / "a.kt").write_text("b")
    assert [times(), times()] == [2, 2]
    (sources / "a.kt").rename(sources / "c.kt")
    assert [times(), times()] == [3, 3]
    assert [times("flag"), times("flag")] == [4, 4]
    steps.remove(target)
    assert times("flag") == 5


def test_an_interrupted_step_runs_again(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def fail() -> None:
        target.write_text("half")
        raise RuntimeFailedError("stopped")

    with pytest.raises(RuntimeFailedError):
        steps.once(target, ["input"], fail)

    def make() -> None:
        target.write_text("whole")

    steps.once(target, ["input"], make)
    assert target.read_text() == "whole"


def _gradle_names(names: set[str], prefix: str) -> set[str]:
    """Names as Gradle's accessors write them."""
    return {f"libs.{prefix}{re.sub('[-_]', '.', name)}" for name in names}


def test_gradle_asks_for_what_the_list_has() -> None:
    """Nobody runs Gradle here, so that its files name nothing else is all that can be known."""
    listed = tomllib.loads(catalogue.FILE.read_text("utf-8"))
    known = (
        _gradle_names(set(listed["libraries"]), "")
        | _gradle_names(set(listed["bundles"]), "bundles.")
        | _gradle_names(set(listed["plugins"]), "plugins.")
        | _gradle_names(set(listed["versions"]), "versions.")
    )
    asked: set[str] = set()
    for path in places.ANDROID.rglob("*.gradle.kts"):
        asked |= set(re.findall(r"\blibs(?:\.[A-Za-z0-9]+)+(?=[).])", path.read_text("utf-8")))
    asked = {re.sub(r"\.get$", "", name) for name in asked}
    assert "libs.bundles.engine.test" in asked
    assert asked - known == set()


def test_the_list_names_each_library_once_and_uses_all() -> None:
    listed = tomllib.loads(catalogue.FILE.read_text("utf-8"))
    in_bundles = [name for bundle in listed["bundles"].values() for name in bundle]
    tools = "".join(path.read_text("utf-8") for path in Path(places.JAVA.parent).glob("*.py"))
    used = {*in_bundles, *re.findall(r"""["']([\w-]+)["']""", tools)}
    assert {*listed["libraries"]} - used == set()
    assert {*in_bundles} <= {*listed["libraries"]}
    modules = [library["module"] for library in listed["libraries"].values()]
    assert len(modules) == len(set(modules))
    assert catalogue.coordinates("junit") == f"junit:junit:{catalogue.version('junit')}"
    assert catalogue.coordinates("compose-ui") == "androidx.compose.ui:ui"


def test_the_library_of_the_engine_knows_nothing_of_android() -> None:
    sources = list((places.ENGINE / "src/main/kotlin").rglob("*.kt"))
    assert len(sources) > 5
    found = [p.name for p in sources if re.search(r"^import androidx?\.", p.read_text(), re.M)]
    assert found == []


def test_r_classes_have_the_names_that_each_library_uses(tmp_path: Path) -> None:
    aar = tmp_path / "aar"
    aar.mkdir()
    (aar / "AndroidManifest.xml").write_text('<manifest package="org.other"/>')
    (aar / "R.txt").write_text("int string hello 0x0\nint string gone 0x0\n")
    symbols = tmp_path / "R.txt"
    symbols.write_text(
        "int string hello 0x7f010000\nint[] styleable View { 0x1, 0x2 }\n", encoding="utf-8"
    )
    app, other = r_classes.r_sources(tmp_path / "java", symbols, "org.app", [aar])
    assert "int[] View = { 0x1, 0x2 };" in app.read_text()
    assert other == tmp_path / "java/org/other/R.java"
    assert "int hello = 0x7f010000;" in other.read_text()
    assert "gone" not in other.read_text()
    assert "View" not in other.read_text()


def test_a_folder_that_is_not_a_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"not a runtime.*runtime\.json.*app-arm64"):
        parts.take_runtime(tmp_path)
    (tmp_path / "assets").mkdir()
    for name in ("runtime.json", "NOTICE"):
        (tmp_path / "assets" / name).write_text("{}")
    with pytest.raises(UnsupportedError, match=r"has no lib\*\.so"):
        parts.take_runtime(tmp_path)


def test_libraries_must_load_with_pages_of_16_kib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib/arm64-v8a"
    folder.mkdir(parents=True)
    source = tmp_path / "empty.c"
    source.write_text("int value = 1;\n")
    monkeypatch.setattr(parts, "RUNTIME", tmp_path)
    app = SimpleNamespace(aars=[])

    def compile_for(page_bytes: int) -> None:
        flags = ["-shared", "-nostdlib", f"-Wl,-z,max-page-size={page_bytes}"]
        target = folder / "libempty.so"
        subprocess.run(["cc", *flags, "-o", target, source], check=True, capture_output=True)

    compile_for(16 << 10)
    assert apk.native_libraries(app) == [folder / "libempty.so"]  # type: ignore[arg-type]
    compile_for(4 << 10)
    with pytest.raises(BundleInvalidError, match="16 KiB"):
        apk.native_libraries(app)  # type: ignore[arg-type]


def test_versions_have_a_number_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = []
    for version in ("0.1.0", "0.1.1", "0.2.0", "1.0.0"):
        monkeypatch.setattr("moe_mobile.__version__", version)
        codes.append(resources.version_code())
    assert codes == [100, 101, 200, 10000]


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "android_app.tools", "apk", "--runtime", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == UnsupportedError.exit_code
    assert "not a runtime for the app" in done.stderr
    assert "Traceback" not in done.stderr
