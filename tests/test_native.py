# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the native unit tests: as released, and under the sanitizers.

Every test program runs under AddressSanitizer with UndefinedBehaviorSanitizer; the concurrent
ones, whose files are named ``*_concurrent_test.cpp``, under ThreadSanitizer too. The engine as
released is what the tests in Python run.
"""

from __future__ import annotations

import inspect
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from moe_mobile import Engine, _native
from moe_mobile.bundle.manifest import ALIGNMENT, MOST_VARIANTS
from moe_mobile.bundle.quantization import QUANTS
from moe_mobile.cli.bench import command as bench
from moe_mobile.cli.generate import command as generate
from moe_mobile.runner.answers import DEFAULTS
from moe_mobile.settings import DEFAULT_CONTEXT
from tests.conftest import NativeBuild

SOURCES = Path(__file__).resolve().parent / "native"
TIMEOUT_SECONDS = 600


def _programs() -> dict[str, int]:
    """Test programs and their numbers of source files, as in tests/native/CMakeLists.txt."""
    programs: dict[str, int] = {}
    for source in SOURCES.rglob("*_test.cpp"):
        room = source.relative_to(SOURCES).parts[0]
        library = "engine" if room in ("engine", "executorch") else "core"
        kind = "concurrent_tests" if source.name.endswith("_concurrent_test.cpp") else "tests"
        name = f"moe_{library}_{kind}"
        programs[name] = programs.get(name, 0) + 1
    return programs


PROGRAMS = _programs()
CASES = [
    pytest.param(flavour, program, id=f"{program}-{flavour}")
    for program in sorted(PROGRAMS)
    for flavour in ("plain", "address", "thread")
    if "concurrent" in program or flavour != "thread"
    if "core" in program or flavour != "plain"
]


def test_python_and_the_engine_state_the_same() -> None:
    lanes = next(option for option in generate.params if option.name == "lanes")
    assert isinstance(lanes.type, click.IntRange)
    assert _native.constants() == {
        "blob_alignment": ALIGNMENT,
        "default_context": DEFAULT_CONTEXT,
        "most_lanes": lanes.type.max,
        "most_precisions": 1 + MOST_VARIANTS,
        "quantizations": [*QUANTS],
        "request_defaults": DEFAULTS,
    }
    shown = {option.name: option.default for option in (*bench.params, *generate.params)}
    for name in ("n_prompt", "n_gen", "repetitions", "max_new_tokens"):
        assert int(str(shown[name])) == DEFAULTS[name]
    default = inspect.signature(Engine.generate).parameters["max_new_tokens"].default
    assert default == DEFAULTS["max_new_tokens"]


def test_there_are_concurrent_and_other_core_tests() -> None:
    assert PROGRAMS.keys() >= {"moe_core_tests", "moe_core_concurrent_tests"}


@pytest.mark.parametrize(("flavour", "program"), CASES)
def test_native(
    flavour: str,
    program: str,
    native_build: Callable[[str], NativeBuild],
    tmp_path: Path,
) -> None:
    build = native_build(flavour)
    report = tmp_path / "report.json"
    result = subprocess.run(
        build.command(build.program(program), f"--gtest_output=json:{report}"),
        env=build.environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TIMEOUT_SECONDS,
    )
    if result.returncode != 0:
        pytest.fail(
            f"{program} ({flavour}) ended with {result.returncode}:\n{result.stdout[-20000:]}",
            pytrace=False,
        )
    counts = json.loads(report.read_text())
    # An exit code of 0 also comes from a program that ran nothing.
    assert counts["tests"] >= PROGRAMS[program]
    assert counts["failures"] == 0
    assert counts["disabled"] == 0
    assert counts["errors"] == 0
    skipped = [
        f"{suite['name']}.{case['name']}"
        for suite in counts["testsuites"]
        for case in suite["testsuite"]
        if case["result"] == "SKIPPED"
    ]
    if skipped:
        print(f"skipped in {program} ({flavour}): {', '.join(skipped)}")
