# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The rooms of the package: who imports whom, and what importing does."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import click
import pytest

from moe_mobile.errors import DiskFullError, UsageError

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "moe_mobile"
ENGINE = ROOT / "android_app/engine/src/main/cpp"

# Each room with all that it may import. It stands below what it names.
ROOMS = {
    "errors": "",
    "base": "errors",
    "demo": "",
    "model": "base demo errors",
    "bundle": "base errors model",
    "export": "base bundle errors model",
    "settings": "base errors",
    "results": "bundle settings",
    "text": "base bundle errors",
    "generation": "errors results text",
    "forks": "errors",
    "engine": "base errors forks generation results settings text",
    "runner": "base errors results settings",
    "runtime": "base errors runner",
    "device": "base bundle errors runner runtime settings",
    "routing": "base bundle demo device errors model runner settings",
    "quality": "base bundle demo device errors model routing runner settings text",
    "bench": "base bundle device errors routing runner settings",
    "tune": "base bench bundle demo device errors model quality routing runner settings",
    "report": "base bench device errors quality routing tune settings",
    "virtual_phone": "base device errors",
    "cli": "base bench bundle demo device engine errors export model quality report routing runner "
    "runtime settings text tune virtual_phone",
    "__main__": "cli",
    # The package itself: names that are loaded on first use.
    "": "bundle engine errors export generation results settings",
}

# What they open is not a file that a user, another program or an earlier run may have left there:
# parts of this package, /proc and cgroups, this machine's programs, and temporary files.
OPENS_OTHERWISE = {
    "base.files": "its purpose",
    "base.json_lines": "opens to read and write, and asks what it is",
    "bench.store": "a part of this package",
    "cli.checks": "/proc, and a temporary file past the page cache",
    "demo": "a part of this package",
    "export.shard_file": "opens to read and write, and asks what it is",
    "report.template": "parts of this package",
    "runtime.notice": "licences that are installed with packages",
    "runtime.sources": "parts of this package",
    "virtual_phone.folder": "locks",
    "virtual_phone.groups": "cgroups, /sys and /proc",
    "virtual_phone.hardware": "in a phone's root, which the phone made",
    "virtual_phone.memory": "in a phone's root, which the phone made",
    "virtual_phone.server": "in a phone's root, which the phone made",
    "virtual_phone.supervisor": "a file of its own to read and write",
    "virtual_phone.sync": "in a phone, and asks what it is",
    "virtual_phone.userland": "this machine's programs",
}

# The harness sets a variable of its own when it is imported.
SETS_VARIABLES = {"moe_mobile.quality.lm_eval"}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _imports(module: str) -> set[str]:
    """Modules of the package that a module imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write whole names of modules"
            whole = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else str(node.module) for name in whole}
    return {name for name in found if name.split(".")[0] == "moe_mobile"} & {*MODULES}


def test_rooms_stand_in_an_order() -> None:
    above: set[str] = set()
    for room, allowed in ROOMS.items():
        assert set(allowed.split()) <= above, f"{room} imports a room that stands below it"
        above.add(room)
    assert {_room(module) for module in MODULES} == above


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_it_may(room: str) -> None:
    # The package itself has the version; importing it loads nothing.
    allowed = {room, "", *ROOMS[room].split()}
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        if _room(module) == room
        for imported in sorted(_imports(module))
        if _room(imported) not in allowed
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: _imports(module) - {module, "moe_mobile"} for module in MODULES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {error.args[1]}")
    assert sorted(order) == sorted(MODULES)


def _opens_for_reading(call: ast.Call) -> bool:
    """Whether a call opens a file to read it, or reads one whole."""
    name = ast.unparse(call.func)
    text = ast.unparse(call)
    if name.endswith((".read_text", ".read_bytes")):
        return "/proc/" not in text
    if name == "os.open":
        others = ("O_WRONLY", "O_PATH", "O_DIRECTORY", "os.devnull", "'/proc/")
        return not any(other in text for other in others)
    if name == "open":
        mode = ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'"
        return "os.devnull" not in text and "'/proc/" not in text and mode[1:2] not in "wxa"
    if isinstance(call.func, ast.Attribute) and call.func.attr == "open" and call.args:
        mode = ast.unparse(call.args[0])  # of a path; what else is opened takes no mode
        return mode.startswith("'r")
    return False


def test_files_are_opened_by_what_asks_for_their_kind() -> None:
    """A pipe in place of a file is waited for, and a file may be larger than memory:
    `moe_mobile.base.files` has what opens and reads them."""
    found = {
        module.removeprefix("moe_mobile.")
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _opens_for_reading(node)
    }
    assert found == {*OPENS_OTHERWISE}


def test_importing_changes_and_prints_nothing() -> None:
    code = (
        "import importlib, os, sys\n"
        "for module in sys.argv[1:]:\n"
        "    before = dict(os.environ)\n"
        "    importlib.import_module(module)\n"
        "    assert dict(os.environ) == before, module\n"
    )
    modules = [name for name in MODULES if not name.endswith("__main__")]
    result = subprocess.run(
        [sys.executable, "-c", code, *(name for name in modules if name not in SETS_VARIABLES)],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "variable", ["ANDROID_ADB_SERVER_PORT", "MOE_MOBILE_PHONE_FOLDER", "ANDROID_ADB_SERVER_HOST"]
)
def test_importing_does_not_judge_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "!")
    code = "import moe_mobile.device.adb, moe_mobile.device.deploy.deploy"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=1200
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def _commands(command: click.Command) -> Iterator[click.Command]:
    """A command and all its commands."""
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _commands(inner)


def _options(command: click.Command) -> set[str]:
    """The long options of a command and of all its commands."""
    return {
        option
        for one in _commands(command)
        for parameter in one.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }


def _texts(path: Path) -> Iterator[str]:
    """String literals for people: sentences, and what is named as a setting; no docstrings."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    settings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "setting"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if id(node) in settings or (" " in text and id(node) not in documentation):
                yield text


def test_libraries_name_no_options() -> None:
    """They name settings, as in `capacity`; the command line shows the option."""
    from moe_mobile.cli import cli

    options = _options(cli)
    assert {"--cache", "--target", "--link-mbps"} <= options
    texts = [
        (str(path), text)
        for module, path in MODULES.items()
        if _room(module) != "cli"
        for text in _texts(path)
    ]
    for suffix in ("*.cpp", "*.h"):
        for path in ENGINE.rglob(suffix):
            texts += [
                (str(path), text) for text in re.findall(r'"([^"\n]* [^"\n]*)"', path.read_text())
            ]
    found = {
        place
        for place, text in texts
        if options & set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    }
    assert found == set()


def test_handlers_take_few_parameters() -> None:
    """Options that belong together reach them as one dataclass."""
    from moe_mobile.cli import cli

    many = {
        command.name: len(parameters)
        for command in _commands(cli)
        if command.callback is not None
        and len(parameters := inspect.signature(command.callback).parameters) > 10
    }
    assert many == {}


def test_errors_name_options_of_the_command() -> None:
    """Every setting that a library names is shown as the option, however that is called."""
    from moe_mobile.cli.commands import with_options
    from moe_mobile.cli.quality import command as quality
    from moe_mobile.cli.simulate import command as simulate
    from moe_mobile.cli.tune import command as tune

    error = DiskFullError("too small for `capacity`", setting="capacity", remedy="Set `a_b`")
    shown = with_options(error, tune)
    assert (shown.cause, shown.setting, shown.remedy) == (
        "too small for --cache",
        "--cache",
        "Set `a_b`",
    )
    assert isinstance(shown, DiskFullError)
    assert shown.errno == error.errno
    assert with_options(error, simulate).setting == "--cache"
    assert error.setting == "capacity"
    assert with_options(UsageError("no", setting="limit"), tune).setting == "--quality"
    # What the engine calls its cache is the lab's capacity.
    killed = UsageError("killed", remedy="Give a smaller `cache` or `context`")
    assert with_options(killed, quality).remedy == "Give a smaller --cache or --context"
    assert with_options(killed, tune).remedy == "Give a smaller --cache or --context"
