# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Building with an NDK, as far as it goes without one.

A stand-in NDK, whose toolchain is Debian's cross compiler calling itself Android, and a stand-in
ExecuTorch build with the target names of the real one, take CMake through all of our part.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_mobile.errors import UnsupportedError
from moe_mobile.runtime.android import EXECUTORCH_VARIABLE, NDK_VARIABLES, find_ndk
from moe_mobile.runtime.cmake import find_tool
from tests.cli.program import failed

ROOT = Path(__file__).resolve().parent.parent.parent
COMPONENTS = (
    "executorch",
    "xnnpack_backend",
    "optimized_native_cpu_ops_lib",
    "extension_threadpool",
)

TOOLCHAIN = """
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_FIND_ROOT_PATH ${CMAKE_CURRENT_LIST_DIR})
set(ANDROID TRUE)
message(STATUS "NDK ${CMAKE_CURRENT_LIST_DIR} ${ANDROID_ABI} ${ANDROID_PLATFORM} ${ANDROID_STL}")
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in (*NDK_VARIABLES, EXECUTORCH_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(tmp_path / "runtimes"))


def make_ndk(folder: Path) -> Path:
    toolchain = folder / "build/cmake/android.toolchain.cmake"
    toolchain.parent.mkdir(parents=True)
    toolchain.write_text(TOOLCHAIN)
    (folder / "source.properties").write_text("Pkg.Revision = 27.2.12479018\n")
    return folder


def make_executorch(folder: Path, *components: str) -> Path:
    package = folder / "lib/cmake/ExecuTorch/executorch-config.cmake"
    package.parent.mkdir(parents=True)
    package.write_text("".join(f"add_library({name} INTERFACE IMPORTED)\n" for name in components))
    return folder


def build_error(exit_code: int) -> dict[str, object]:
    return failed(exit_code, "runtime", "build", "--target", "android-arm64")


def configure(build: Path) -> subprocess.CompletedProcess[str]:
    """The preset's first step, as someone without our command would do it."""
    command = [find_tool("cmake"), "--preset", "android-arm64", "-S", str(ROOT), "-B", str(build)]
    command += [
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}",
    ]
    return subprocess.run(command, capture_output=True, text=True)


def test_presets_parse() -> None:
    result = subprocess.run(
        [find_tool("cmake"), "--list-presets=all"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for name in ("linux-arm64", "android-arm64"):
        # Once to configure, once to build.
        assert result.stdout.count(f'"{name}"') == 2, result.stdout


def test_the_first_variable_that_is_set_names_the_ndk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in reversed(NDK_VARIABLES):
        monkeypatch.setenv(variable, str(make_ndk(tmp_path / variable)))
        assert find_ndk() == tmp_path / variable
        # The preset alone agrees; it gets no further without ExecuTorch.
        result = configure(tmp_path / f"build-{variable}")
        assert f"NDK {tmp_path / variable}/build/cmake arm64-v8a android-28 c++_static" in (
            result.stdout
        )
        assert "-DMOE_EXECUTORCH_DIR=FOLDER" in result.stderr  # one word: never broken
    monkeypatch.setenv(NDK_VARIABLES[0], "")
    assert find_ndk() == tmp_path / NDK_VARIABLES[1]
    # A wrong one is not passed over: it would hide what the user meant.
    monkeypatch.setenv(NDK_VARIABLES[0], str(tmp_path))
    with pytest.raises(UnsupportedError, match="does not name an Android NDK") as caught:
        find_ndk()
    assert caught.value.setting == NDK_VARIABLES[0]


def test_missing_tools_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = build_error(3)
    assert error["setting"] == "ANDROID_NDK"
    assert all(name in str(error["remedy"]) for name in NDK_VARIABLES)

    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "nowhere"))
    error = build_error(3)
    assert error["setting"] == "ANDROID_NDK_HOME"
    assert str(tmp_path / "nowhere/build/cmake/android.toolchain.cmake") in str(error["cause"])

    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "ndk")))
    error = build_error(3)
    assert error["setting"] == EXECUTORCH_VARIABLE
    assert "docs/phone-runtime.md" in str(error["remedy"])

    monkeypatch.setenv(EXECUTORCH_VARIABLE, str(tmp_path))
    error = build_error(3)
    assert error["setting"] == EXECUTORCH_VARIABLE
    assert "executorch-config.cmake is missing" in str(error["cause"])

    executorch = make_executorch(tmp_path / "without", *COMPONENTS[:-1])
    monkeypatch.setenv(EXECUTORCH_VARIABLE, str(executorch))
    error = build_error(10)
    # CMake breaks the lines of its messages.
    assert "was built without extension_threadpool" in " ".join(str(error["cause"]).split())
    assert not (tmp_path / "runtimes/android-arm64/.partial").exists()


def test_the_preset_configures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_NDK_ROOT", str(make_ndk(tmp_path / "ndk")))
    executorch = make_executorch(tmp_path / "executorch", *COMPONENTS)
    monkeypatch.setenv(EXECUTORCH_VARIABLE, str(executorch))
    result = configure(tmp_path / "build")
    assert result.returncode == 0, result.stderr
    command = [find_tool("ninja"), "-C", str(tmp_path / "build"), "-t", "commands", "moe_runner"]
    commands = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    link = commands.splitlines()[-1]
    assert "-Wl,-z,max-page-size=16384" in link
    assert "-Wl,--strip-all" in link
    assert "-rpath" not in link
    assert os.fspath(executorch) in commands
