# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How a runtime comes to be: in one step, of these sources, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import moe_mobile
from moe_mobile.errors import (
    DiskFullError,
    IoError,
    ReadOnlyError,
    RuntimeFailedError,
    UnsupportedError,
)
from moe_mobile.runtime import (
    build_runtime,
    cross,
    find_runtime,
    folder,
    runtimes_of,
    target_folder,
)
from moe_mobile.runtime.cmake import find_tool
from moe_mobile.runtime.elf import read_elf
from moe_mobile.runtime.folder import Recipe, publish, read_runtime
from moe_mobile.runtime.sources import find_sources, sources_digest
from tests.cli.program import INTERRUPTIBLE, failed
from tests.hostile.support import mounted, remount
from tests.phones import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = Recipe(
    target="linux-arm64", abi="arm64-v8a", version="0", executorch="0", key="k0", loader="ld.so"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder where runtimes go."""
    monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(tmp_path / "runtimes"))
    return tmp_path / "runtimes"


def fill(content: Path, scratch: Path) -> None:
    (content / "lib").mkdir()
    (content / "lib/a.so").write_bytes(b"a")
    (content / "moe_runner").write_bytes(b"runner")


def test_digest_is_that_of_sha256sum(place: Path) -> None:
    runtime = publish(RECIPE, fill)
    assert runtime.files == ("lib/a.so", "moe_runner")
    shell = f"cd '{runtime.folder}' && sha256sum {' '.join(runtime.files)} | sha256sum"
    told = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == runtime.digest


def test_a_failed_build_leaves_nothing(place: Path) -> None:
    def fail(content: Path, scratch: Path) -> None:
        fill(content, scratch)
        raise RuntimeFailedError("no")

    with pytest.raises(RuntimeFailedError):
        publish(RECIPE, fail)
    assert [path.name for path in (place / "linux-arm64").iterdir()] == [".lock"]


def test_builds_at_once_build_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, locking = [], []
    locked = folder._locked

    def noted(place: Path) -> contextlib.AbstractContextManager[None]:
        locking.append(place)
        return locked(place)

    def with_others(content: Path, scratch: Path) -> None:
        made.append(content)
        wait_until(lambda: len(locking) == 3)
        fill(content, scratch)

    monkeypatch.setattr(folder, "_locked", noted)
    threads = [threading.Thread(target=publish, args=(RECIPE, with_others)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert read_runtime(place / "linux-arm64/k0").files == ("lib/a.so", "moe_runner")


def test_a_build_that_never_ends_is_not_waited_for_for_ever(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_PATIENCE_S", 0.0)
    with folder._locked(target_folder(RECIPE.target)):
        with pytest.raises(RuntimeFailedError, match="has been building this runtime") as caught:
            publish(RECIPE, fill)
        assert caught.value.file == str(place / "linux-arm64")
    publish(RECIPE, fill)


def test_the_newest_four_runtimes_are_kept(place: Path) -> None:
    for number in range(7):
        publish(dataclasses.replace(RECIPE, key=f"k{number}"), fill)
    assert [runtime.folder.name for runtime in runtimes_of("linux-arm64")] == [
        "k6", "k5", "k4", "k3",
    ]  # fmt: skip


def test_a_runtime_of_other_sources_is_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    current = cross.recipe()
    publish(current, fill)
    assert find_runtime("arm64-v8a").folder.name == current.key
    monkeypatch.setattr(moe_mobile, "__version__", "9.9.9")
    with pytest.raises(UnsupportedError, match=r"older build \(moe-mobile 0") as caught:
        find_runtime("arm64-v8a")
    assert "moe-mobile runtime build --target linux-arm64" in str(caught.value)


def test_every_source_counts_but_the_python_module(tmp_path: Path) -> None:
    engine = Path("android_app/engine/src/main/cpp")
    for name in ("CMakeLists.txt", "CMakePresets.json", "cmake/a.cmake", engine / "base/a.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    digests = [sources_digest(tmp_path)]
    for name in ("CMakeLists.txt", "cmake/a.cmake", engine / "base/a.h", engine / "base/b.cpp"):
        (tmp_path / name).write_text("2")
        digests.append(sources_digest(tmp_path))
    assert len(set(digests)) == len(digests)
    (tmp_path / engine / "python").mkdir()
    (tmp_path / engine / "python/module.cpp").write_text("3")
    assert sources_digest(tmp_path) == digests[-1]


def test_the_wheel_carries_the_sources(tmp_path: Path) -> None:
    # What scikit-build-core does, less the compiling.
    arguments = {
        "SKBUILD": "2",
        "SKBUILD_STATE": "wheel",
        "MOE_BUILD_ENGINE": "OFF",
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_MAKE_PROGRAM": find_tool("ninja"),
    }
    build, prefix = tmp_path / "build", tmp_path / "wheel"
    cmake = find_tool("cmake")
    configure = [cmake, "-S", str(ROOT), "-B", str(build), "-GNinja"]
    configure += [f"-D{name}={value}" for name, value in arguments.items()]
    install = [
        cmake,
        "--install",
        str(build),
        "--component",
        "moe_sources",
        "--prefix",
        str(prefix),
    ]
    for command in (configure, install):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    sources = prefix / "moe_mobile/runtime/sources"
    assert find_sources() == ROOT
    assert sources_digest(sources) == sources_digest(ROOT)
    # They stand on their own: CMake takes all but ExecuTorch for arm64 from them.
    command = [cmake, "--preset", "linux-arm64", "-B", str(tmp_path / "arm64")]
    command += [
        f"-D{name}={arguments[name]}" for name in ("Python_EXECUTABLE", "CMAKE_MAKE_PROGRAM")
    ]
    result = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert "-DMOE_EXECUTORCH_DIR=FOLDER" in result.stderr


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(disk / "runtimes"))
        with pytest.raises(DiskFullError, match="device") as full:
            find_runtime("x86_64")
        assert str(full.value.remedy).startswith("Free some space")
        assert [path.name for path in disk.rglob("*") if path.is_file()] == [".lock"]
        remount(disk, "ro")
        with pytest.raises(ReadOnlyError):
            find_runtime("x86_64")
        error = failed(8, "runtime", "build", "--target", "linux-x86_64")
    assert str(error["file"]).startswith(str(disk))
    assert "MOE_MOBILE_RUNTIME_DIR" in error["remedy"]


def test_a_file_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(IoError) as caught:
        build_runtime("linux-x86_64")
    assert caught.value.remedy == "MOE_MOBILE_RUNTIME_DIR names it: correct or unset that variable"


def test_a_failing_compiler_is_quoted(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_compiler(tmp_path, monkeypatch, "echo 'cannot find crt1.o' >&2; exit 1")
    error = failed(10, "runtime", "build")
    assert "cannot find crt1.o" in error["cause"]
    assert list(place.rglob("moe_runner")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_to_take(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    _use_compiler(tmp_path, monkeypatch, f"touch '{tmp_path}/started'; exec sleep 60")
    command = [*INTERRUPTIBLE, "runtime", "build"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: (tmp_path / "started").exists() or process.poll() is not None)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=1200) == (130 if number == signal.SIGINT else -number)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the compiler, after SIGKILL
    assert runtimes_of("linux-arm64") == []
    with pytest.raises(UnsupportedError, match="has not been built"):
        find_runtime("arm64-v8a")
    # What a killed process left does not hinder the build, and is removed.
    publish(RECIPE, fill)
    assert not (target_folder("linux-arm64") / ".partial").exists()


def test_elf_reader_agrees_with_the_runner() -> None:
    runtime = find_runtime("x86_64")
    elf = read_elf(runtime.folder / "moe_runner")
    assert (elf.machine, Path(str(elf.interpreter)).name) == ("x86_64", runtime.loader)
    assert {"libexecutorch.so", "libc.so.6"} <= set(elf.needed)
    with pytest.raises(UnsupportedError, match="not a 64-bit"):
        read_elf(runtime.folder / "NOTICE")


def test_cut_elf_files_are_refused(tmp_path: Path) -> None:
    whole = (find_runtime("x86_64").folder / "lib/libexecutorch.so").read_bytes()
    for length in (6, 40, 63, 64, 100, 700, 5000):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(IoError, match="damaged"):
            read_elf(tmp_path / "cut")


def _use_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a cross compiler first on PATH that does as ``script`` says."""
    compiler = folder / "bin/aarch64-linux-gnu-g++"
    compiler.parent.mkdir()
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}{os.pathsep}{os.environ['PATH']}")
