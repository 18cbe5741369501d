# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Rules that hold for the whole project and its installed programs."""

from __future__ import annotations

import ast
import contextlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import moe_mobile
from moe_mobile.base.pins import pinned
from tests.includes import included

_CODE = {".py", ".cpp", ".h", ".cmake", ".txt", ".json", ".kt", ".kts", ".sh"}
ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "android_app/engine/src/main/cpp"
HEADER = ("Copyright the moe-mobile authors.", "SPDX-License-Identifier: Apache-2.0")
CODE_SUFFIXES = {".py", ".h", ".cpp", ".cmake", ".kt", ".kts", ".java", ".rs", ".sh"}
CODE_NAMES = {"CMakeLists.txt", "Makefile"}
# A folder of someone's machine where a path begins, not in ./work, ${HOME}/tmp or an URL.
MACHINE_PATH = re.compile(
    r"(?<![\w.~$*)}\]>/-])/(?:(?:work|root|workspace|builds)(?![\w.-])"
    r"|(?:home|Users|tmp|var/tmp|mnt|scratch)/[\w.-]+)"
)
URL_HOST = re.compile(r"\b(?:https?|git|ssh)://(?:[^/\s@]*@)?([\w.-]+)")
PRIVATE_HOST = re.compile(r"(?<![\w.])(?:\w[\w-]*\.)+(?:internal|corp|intranet|lan)\b(?![.(\w])")
# What the project links to; indexes of packages are PyPI's and Debian's alone.
KNOWN_HOSTS = {
    "clang.llvm.org",
    "docs.pytorch.org",
    "git-lfs.github.com",
    "github.com",  # in Cargo.lock, the name of crates.io's index
    "json-schema.org",
    "keepachangelog.com",
    "schemas.android.com",
    "semver.org",
    "www.apache.org",
    "www.w3.org",
}
KNOWN_INDEXES = ("pypi.org", "debian.org")


def _tracked_files() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in result.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def _code_files() -> list[Path]:
    files = [
        path for path in _tracked_files() if path.suffix in CODE_SUFFIXES or path.name in CODE_NAMES
    ]
    assert files
    return files


def test_code_states_its_licence() -> None:
    bare = []
    for path in _code_files():
        head = "\n".join(path.read_text().splitlines()[:4])
        if any(line not in head for line in HEADER):
            bare.append(path.relative_to(ROOT))
    assert bare == []


def _traces_of_a_machine(text: str) -> list[str]:
    """Paths and hosts in `text` that mean something on its writer's machine only."""
    found = [match[0] for match in MACHINE_PATH.finditer(text)]
    found += [match[0] for match in PRIVATE_HOST.finditer(text)]
    for host in URL_HOST.findall(text):
        index = any(host == known or host.endswith(f".{known}") for known in KNOWN_INDEXES)
        if host not in KNOWN_HOSTS and not index:
            found.append(host)
    return found


def test_nothing_names_its_writers_machine() -> None:
    found = []
    for path in _tracked_files():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for trace in _traces_of_a_machine(data.decode(errors="replace")):
            found.append(f"{path.relative_to(ROOT)}: {trace}")
    assert found == []


@pytest.mark.parametrize(
    ("parts", "is_trace"),
    [
        (("see ", "/", "work/main/x.py"), True),
        (("(", "/", "root/.cache)"), True),
        (('"', "/home", '/ann/model"'), True),
        (("`", "/Users", "/ann`"), True),
        (("--out ", "/tmp", "/bundle"), True),
        (("https", "://mirror.example.net/simple"), True),
        (("https", "://name:secret@files.example.net/"), True),
        (("pypi.example", ".internal"), True),
        (("https", "://pypi.org/project/torch"), False),
        (("http", "://deb.debian.org/debian"), False),
        (("https", "://semver.org"), False),
        (("https", "://semver.org/home/ann"), False),
        (("tests/work", "/x and ./tmp", "/x and ~/tmp", "/x"), False),
        (("in ", "/tmp", " or ", "/workspaces"), False),
        (("nb::internal(); a.in", "ternal()"), False),
    ],
)
def test_traces_of_a_machine_are_recognized(parts: tuple[str, ...], is_trace: bool) -> None:
    # In parts, so that this file passes.
    assert bool(_traces_of_a_machine("".join(parts))) == is_trace


def test_pages_that_are_pointed_to_exist() -> None:
    missing = []
    for path in _tracked_files():
        with contextlib.suppress(UnicodeDecodeError):
            text = path.read_text("utf-8")
            pages = {ROOT / page for page in re.findall(r"\bdocs/[\w./-]+\.md\b", text)}
            if path.suffix == ".md":
                links = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text)
                pages |= {path.parent / link for link in links}
            missing += [f"{path.relative_to(ROOT)}: {page}" for page in pages if not page.exists()]
    assert missing == []


def test_version_is_stated_once_for_all() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert moe_mobile.__version__ == pyproject["project"]["version"]


def test_pinned_versions_are_stated_once() -> None:
    """In pyproject.toml: CMake reads them there, Python from the package's metadata."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    required = pyproject["project"]["dependencies"]
    pins = dict(line.split("==") for line in required if "==" in line)
    assert {*pins} == {"torch", "executorch", "torchao"}
    assert {name: pinned(name) for name in pins} == pins
    assert f"executorch=={pins['executorch']}" in pyproject["build-system"]["requires"]
    paths = [ROOT / "CMakeLists.txt", ROOT / "Makefile", ROOT / "CMakePresets.json"]
    for folder in ("moe_mobile", "cmake", "android_app", "benchmarks", "export_scripts"):
        paths += [path for path in (ROOT / folder).rglob("*") if path.suffix in _CODE]
    again = [
        f"{path.relative_to(ROOT)}: {version}"
        for path in paths
        for version in pins.values()
        if re.search(rf"(?<![0-9.]){re.escape(version)}(?![0-9.]*[0-9])", path.read_text("utf-8"))
    ]
    assert again == []


# Each room of the engine with all that it may include. It stands above what it names.
ENGINE_ROOMS = {
    "base": "",
    "cache": "base",
    "metrics": "base",
    "routing": "base cache",
    "bundle": "base cache routing",
    "decoder": "base bundle",
    "plan": "base bundle cache decoder routing",
    "executorch": "base bundle",
    "engine": "base bundle cache decoder executorch metrics plan routing",
    "text": "base bundle",
    "runner": "base bundle cache engine executorch metrics plan routing text",
    "python": "base bundle cache engine plan routing",
}


def test_rooms_of_the_engine_include_what_they_may() -> None:
    assert {path.name for path in ENGINE.iterdir() if path.is_dir()} == {*ENGINE_ROOMS}
    seen: set[str] = set()
    for room, allowed in ENGINE_ROOMS.items():
        assert {*allowed.split()} <= seen, room
        seen.add(room)
        for path in (ENGINE / room).rglob("*"):
            if path.suffix in {".h", ".cpp"}:
                for other in re.findall(r'#include\s+"([a-z]+)/', path.read_text()):
                    assert other in {room, *allowed.split()}, f"{path.relative_to(ROOT)}: {other}"
                # ExecuTorch's own headers; theirs begin as our room's do.
                own = re.findall(r"#include\s+<executorch/.*", path.read_text())
                assert room in ("executorch", "python") or own == [], path.relative_to(ROOT)


def test_locks_are_what_the_thread_safety_analysis_knows() -> None:
    hidden = re.compile(
        r"std::(?:\w*mutex|\w*_lock|lock_guard|condition_variable\w*|once_flag)\b"
        r"|#include <(?:mutex|shared_mutex|condition_variable)>"
    )
    assert hidden.search("const std::lock_guard lock(mutex_);")
    assert hidden.search("std::mutex mutex_;")
    found = {
        str(path.relative_to(ROOT))
        for folder in (ENGINE, ROOT / "tests/native")
        for path in folder.rglob("*")
        if path.suffix in (".h", ".cpp") and hidden.search(path.read_text())
    }
    assert found == {str((ENGINE / "base/mutex.h").relative_to(ROOT))}


def test_the_engines_public_header_shows_only_what_hosts_need() -> None:
    shown = included("engine/engine.h")
    assert "plan/settings.h" in shown
    hidden = (
        *("nlohmann/", "executorch/", "decoder/", "bundle/manifest.h"),
        *("engine/decoder.h", "engine/expert_", "routing/method.h"),
        *("cache/residency_map.h", "cache/memory_planner.h"),
    )
    assert [header for header in shown if header.startswith(hidden)] == []
    # Measuring goes through it.
    measuring = set().union(*map(included, ("engine/bench.h", "engine/time_program.h")))
    assert "engine/decoder.h" not in measuring | included("engine/generate.h")


def _installed_binaries() -> list[Path]:
    """The compiled files of the installed package (an editable install has two folders)."""
    folders = [Path(folder) for folder in moe_mobile.__path__]
    runners = [folder / "bin" / "moe_runner" for folder in folders]
    modules = [module for folder in folders for module in folder.glob("_native*.so")]
    return [path for path in [*runners, *modules] if path.is_file()]


def _readelf(path: Path) -> str:
    return subprocess.run(
        ["readelf", "--dynamic", "--program-headers", "--wide", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_runner_and_module_are_installed() -> None:
    names = {path.name.split(".")[0] for path in _installed_binaries()}
    assert names == {"_native", "moe_runner"}


def test_installed_binaries_can_be_moved() -> None:
    for path in _installed_binaries():
        run_paths = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", _readelf(path))
        assert len(run_paths) == 1, path
        entries = run_paths[0].split(":")
        assert all(entry.startswith("$ORIGIN/") for entry in entries), (path, entries)


def test_installed_binaries_load_with_large_pages() -> None:
    for path in _installed_binaries():
        alignments = re.findall(r"^\s*LOAD\s.*\s(0x[0-9a-f]+)$", _readelf(path), re.MULTILINE)
        assert alignments, path
        assert all(int(alignment, 16) >= 16384 for alignment in alignments), (path, alignments)


def test_module_imports_from_any_folder(tmp_path: Path) -> None:
    (native,) = (path for path in _installed_binaries() if path.name.startswith("_native"))
    for folder in (tmp_path, ROOT):
        told = subprocess.run(
            [sys.executable, "-c", "import moe_mobile._native as n; print(n.__file__)"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert (told.stdout, told.stderr) == (f"{native}\n", "")


# Of pytest, torch and numpy.
_LOOKS = {"raises", "warns", "fail", "assert_close", "assert_array_equal", "assert_allclose"}


def test_no_property_has_a_deadline() -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
    others = [
        path for path in (ROOT / "tests").rglob("*.py") if "suppress_health" in path.read_text()
    ]
    assert {path.name for path in others} == {"conftest.py", "test_project.py"}


def test_texts_have_no_exponents() -> None:
    """Formats that may write one stand only in `digits`, which removes it, and where a number is
    rounded."""
    found = set()
    for path in (ROOT / "moe_mobile").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            spec = node.format_spec if isinstance(node, ast.FormattedValue) else None
            end = spec.values[-1] if isinstance(spec, ast.JoinedStr) else None
            if isinstance(end, ast.Constant) and str(end.value).endswith(("e", "E", "g", "G")):
                found.add(str(path.relative_to(ROOT / "moe_mobile")))
    assert found == {"base/text.py", "report/figure.py"}


def test_each_test_looks_at_a_value() -> None:
    """Each asserts something, itself or in a helper that it calls: not raising is not enough. A
    fixture is no helper: what it asserts is the same for all of its tests."""
    functions: dict[str, list[ast.AST]] = {}
    tests: list[tuple[str, ast.AST]] = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if not any("fixture" in ast.unparse(by) for by in node.decorator_list):
                    functions.setdefault(node.name, []).append(node)
                if node.name.startswith("test_"):
                    tests.append((f"{path.relative_to(ROOT)}: {node.name}", node))

    def looks(node: ast.AST, above: frozenset[str]) -> bool:
        for part in ast.walk(node):
            if isinstance(part, ast.Assert):
                return True
            if isinstance(part, ast.Call):
                called = part.func
                name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
                if name in _LOOKS:
                    return True
                inner = functions.get(name, []) if name not in above else []
                if any(looks(one, above | {name}) for one in inner):
                    return True
        return False

    assert len(tests) > 500
    assert [name for name, node in tests if not looks(node, frozenset())] == []
