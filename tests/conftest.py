# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: native builds with and without sanitizers, and a plugin."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.bundles", "tests.phones"]

# A busy machine proves nothing: no example of a property has a time limit. Fixtures may serve all
# examples of a test.
settings.register_profile(
    "moe-mobile",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("moe-mobile")

# Tiny tensors only lose by threads, which wait for each other spinning. For all processes of a run.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent

# Cached between runs; a changed source rebuilds only what depends on it.
BUILD_ROOT = Path(os.environ.get("MOE_NATIVE_BUILD_ROOT", ROOT / "build"))
# The secret by which packed weights are known to be of this machine.
os.environ["MOE_MOBILE_STATE_DIR"] = str(BUILD_ROOT / "state")

SANITIZE = {"plain": "", "address": "address", "thread": "thread", "text": ""}


# Files of few tests that take minutes come among those of many, so that what is last is short.
LONG = {
    "test_native.py", "test_runtime.py", "test_runner_text.py", "test_app.py", "test_programs.py",
    "test_cost.py",
}  # fmt: skip
AS_LONG_AS = 50  # tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of many tests first. Without it pytest-xdist does this too, but by numbers alone."""
    tests = Counter(item.path for item in items)
    length = {p: max(n, AS_LONG_AS) if p.name in LONG else n for p, n in tests.items()}
    items.sort(key=lambda item: -length[item.path])


@dataclass(frozen=True)
class NativeBuild:
    """One configured build folder of the native code, ``build/native-<flavour>``.

    ``flavour`` is ``plain``, ``address`` (AddressSanitizer with UndefinedBehaviorSanitizer),
    ``thread`` (ThreadSanitizer) or ``text`` (moe_runner with the library in Rust).
    """

    flavour: str
    directory: Path

    def program(self, target: str) -> Path:
        """Build ``target`` (``moe_runner``, ``moe_core_tests``, ...) and return its path."""
        command = [_tool("cmake"), "--build", str(self.directory), "--target", target]
        with _locked(self.directory):
            _check_call([*command, "--parallel", str(os.cpu_count() or 1)])
        path = self.directory / "bin" / target
        if not path.is_file():
            raise AssertionError(f"building {target} left no {path}")
        return path

    def command(self, program: Path, *arguments: str) -> list[str]:
        """The command line that runs ``program`` in this flavour."""
        command = [str(program), *arguments]
        # ThreadSanitizer needs its shadow memory where kernels with much address randomisation
        # may have put a library.
        if self.flavour == "thread" and _can_fix_addresses():
            return ["setarch", os.uname().machine, "--addr-no-randomize", *command]
        return command

    def environment(self) -> dict[str, str]:
        """The environment to run this build's programs in: the first finding is fatal."""
        return os.environ | {
            "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
        }


@pytest.fixture(scope="session")
def native_build() -> Callable[[str], NativeBuild]:
    """A function that configures the native build of a flavour and returns it."""
    return _native_build


@functools.cache
def _native_build(flavour: str) -> NativeBuild:
    directory = BUILD_ROOT / f"native-{flavour}"
    directory.mkdir(parents=True, exist_ok=True)
    definitions = {
        "CMAKE_BUILD_TYPE": "Release",
        "MOE_SANITIZE": SANITIZE[flavour],
        "MOE_BUILD_TESTS": "ON",
        "MOE_BUILD_PYTHON": "OFF",
        # Half the time, or less. The package is built file by file: each includes what it needs.
        "CMAKE_UNITY_BUILD": "ON",
        "CMAKE_UNITY_BUILD_BATCH_SIZE": "24",
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_MAKE_PROGRAM": _tool("ninja"),
    }
    if flavour == "text":
        from tests.text.rust import built

        definitions["MOE_TEXT_LIBRARY"] = str(built() / "libmoe_text.a")
    if SANITIZE[flavour]:
        # Half of GCC's time with sanitizers, and it checks the annotations of locks.
        definitions["CMAKE_CXX_COMPILER"] = _tool("clang++")
    arguments = [f"-D{name}={value}" for name, value in definitions.items()]
    with _locked(directory):
        _check_call(
            [_tool("cmake"), "-S", str(ROOT), "-B", str(directory), "-G", "Ninja", *arguments]
        )
    return NativeBuild(flavour, directory)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep two test runs of one checkout from building in one folder at once."""
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tool(name: str) -> str:
    """Path of a program of this environment (installed from PyPI), else of the system."""
    path = Path(sysconfig.get_path("scripts")) / name
    found = str(path) if path.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: run `make venv test-tools`")
    return found


def _check_call(command: list[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        pytest.fail(f"{' '.join(command)} failed:\n{result.stdout[-20000:]}", pytrace=False)


@functools.cache
def _can_fix_addresses() -> bool:
    setarch = shutil.which("setarch")
    if setarch is None:
        return False
    command = [setarch, os.uname().machine, "--addr-no-randomize", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0
