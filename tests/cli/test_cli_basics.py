# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the command line does without a bundle: help, errors, exit codes, models, doctor."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import moe_mobile
from moe_mobile import errors
from moe_mobile.base.pins import pinned
from moe_mobile.base.text import size, table
from moe_mobile.cli import cli
from moe_mobile.cli.checks import EXPORTS, PINNED, memory, run_checks
from moe_mobile.cli.errors import format_error
from tests.cli.program import COMMAND, failed, ok, ok_json, run_cli, without_engine

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = [
    "export", "inspect", "verify", "prepare", "generate", "bench", "trace", "simulate", "quality",
    "models", "doctor", "demo",
]  # fmt: skip


def test_help_lists_commands_and_exit_codes() -> None:
    text = ok("--help")
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
    codes = {int(code) for code in re.findall(r"(?:^|  )\s*(\d+) [a-zS5E]", text)}
    assert {kind.exit_code for kind in errors.BY_CODE.values()} <= codes


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_that_parse(
    command: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    lines = re.findall(r"^ +moe-mobile (.+)", result.output, re.MULTILINE)
    assert any(line.startswith(command) for line in lines)
    for name in ("prompt.txt", "messages.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for line in lines:
        name, *arguments = shlex.split(line.partition(" > ")[0], comments=True)
        found = cli.get_command(click.Context(cli), name)
        assert found is not None
        # Parses the arguments and runs nothing.
        found.make_context(name, arguments)


def test_help_and_wrong_options_do_not_import_torch() -> None:
    program = (
        "import sys, click.testing\n"
        "from moe_mobile.cli import cli\n"
        "run = lambda *a: click.testing.CliRunner().invoke(cli, a).exit_code\n"
        f"codes = [run(c, '--help') for c in {COMMANDS}]\n"
        "codes += [run('--help'), run('generate', 'b', '--lanes', 'x')]\n"
        "heavy = {'torch', 'numpy', 'transformers', 'executorch', 'tokenizers', 'tqdm'}\n"
        "print(codes, sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"{[0] * (len(COMMANDS) + 1) + [2]} []\n"


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, moe_mobile; print(dir(moe_mobile), 'torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("False\n")
    for name in moe_mobile.__all__:
        assert repr(name) in result.stdout


def test_the_public_api_is_listed() -> None:
    from moe_mobile.engine import Engine
    from moe_mobile.export import export_bundle

    assert moe_mobile.Engine is Engine
    assert moe_mobile.export_bundle is export_bundle
    assert moe_mobile.errors is errors
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        moe_mobile.nothing  # noqa: B018


def test_version() -> None:
    assert ok("--version") == f"moe-mobile {moe_mobile.__version__}\n"


def test_usage_errors_look_like_all_errors() -> None:
    assert failed(2, "exprot")["code"] == "usage"
    assert "--cash" in failed(2, "generate", "b", "--cash", "1")["cause"]
    error = failed(2, "inspect")
    assert error["remedy"] == "`moe-mobile inspect --help` lists what is possible"
    # Without --json, stdout stays empty.
    result = run_cli("inspect")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")


def test_without_arguments_help_is_shown() -> None:
    result = run_cli()
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: moe-mobile")


def test_an_error_block_names_file_cause_and_remedy() -> None:
    error = errors.BudgetError("too small", file="/b", remedy="use 90%")
    assert format_error(error) == "error: /b: too small\n  what to do: use 90%"
    error = errors.BudgetError("too small", setting="cache", remedy="use 90%")
    assert format_error(error) == "error: cache: too small\n  what to do: use 90%"
    assert format_error(errors.BudgetError("too small")) == "error: too small"


@pytest.mark.parametrize("command", ["inspect", "verify", "prepare", "bench"])
def test_a_folder_that_is_not_a_bundle(command: str, tmp_path: pathlib.Path) -> None:
    error = failed(4, command, tmp_path)
    assert error["code"] == "bundle_invalid"
    assert error["file"] == str(tmp_path / "bundle.json")
    assert "moe-mobile export" in error["remedy"]


@pytest.mark.parametrize(
    "command",
    [
        ["inspect"],
        ["verify"],
        ["prepare"],
        ["bench"],
        ["generate", "-p", "x"],
        ["generate", "--token-ids", "1"],
    ],
    ids=" ".join,
)
def test_a_folder_that_is_missing(command: list[str], tmp_path: pathlib.Path) -> None:
    error = failed(4, command[0], tmp_path / "nope", *command[1:])
    assert (error["code"], error["file"]) == ("bundle_invalid", str(tmp_path / "nope"))
    assert error["cause"] == "not a bundle: there is no such folder"
    assert "moe-mobile export" in error["remedy"]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["export", "only-one"], "a source and a target"),
        (["export", "a", "b", "--layers", "2"], "for --random-weights only"),
        (["export", "a", "b", "--random-weights", "OLMoE-1B-7B"], "takes the place"),
        (["export", "--random-weights", "GPT-9", "out"], "unknown preset"),
        (["export", "/nowhere/model", "out"], "no such checkpoint"),
        (["generate", "b"], "there is no text"),
        (["generate", "b", "--chat"], "it prints one answer"),
        (["generate", "b", "--token-ids", "x"], "not a list of token ids: 'x'"),
        (["virtual-phone", "stop"], "no phone is named"),
        (["virtual-phone", "stop", "one", "--all"], "one is named, and all phones are"),
        (["generate", "b", "-p", "x", "--token-ids", "1"], "more than once"),
        (["generate", "b", "--token-ids", "1,x"], "not a list of token ids"),
        (["generate", "b", "--token-ids", "-1"], "not a list of token ids"),
        (["generate", "b", "--token-ids", "1,,2"], "not a list of token ids"),
        (["generate", "b", "--token-ids", "1,2,"], "not a list of token ids"),
        (["generate", "b", "--token-ids", "1_0"], "not a list of token ids"),
        (["generate", "b", "--token-ids", "5,4294967296"], "token 4294967296 is larger than"),
        (["generate", "b", "--token-ids", ""], "not a list of token ids"),
        (["bench", "b", "-n", "1,,2"], "a value is missing"),
        (["bench", "b", "-p", "0", "-n", "0"], "nothing to measure"),
        (["bench", "b", "-p", "many"], "not a whole number"),
        (["bench", "b", "-n", "-5"], "not a whole number"),
        (["bench", "b", "--lanes", "0"], "too small"),
        (["bench", "b", "--lanes", "2,99"], "from 1 to 16"),
        (["bench", "b", "--cache", "50%,half"], "invalid size"),
        (["bench", "b", "--residency", "flash"], "not one of slots"),
        (["bench", "b", "-pg", "512"], "two numbers"),
        (["bench", "b", "--format", "md"], "contradict"),
        (["bench", "b", "--plot", "x.txt"], "plots are written as"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], cause: str) -> None:
    assert cause in failed(2, *arguments)["cause"]


@pytest.mark.parametrize("command", ["quality", "tune", "trace"])
def test_the_option_that_gave_a_text_is_blamed(command: str, tmp_path: pathlib.Path) -> None:
    out = () if command != "trace" else ("--out", tmp_path / "t")
    error = failed(2, command, "demo", "-p", "", *out)
    assert (error["setting"], error["cause"]) == ("--prompt", "there are no tokens")


def test_a_prompt_file_must_be_text(tmp_path: pathlib.Path) -> None:
    (tmp_path / "prompt").write_bytes(b"caf\xe9")
    error = failed(2, "generate", tmp_path, "-f", tmp_path / "prompt")
    assert "not UTF-8" in error["cause"]
    assert error["file"] == str(tmp_path / "prompt")


def test_an_empty_text_file_is_named() -> None:
    for command in (("generate", "b", "-f"), ("quality", "b", "--file")):
        error = failed(2, *command, "/dev/null")
        assert (error["cause"], error["file"]) == ("the file is empty", "/dev/null")


def test_standard_input_has_one_name() -> None:
    for command in (("generate", "b", "-f", "-"), ("generate", "b", "--messages", "-"),
                    ("report", "-"), ("quality", "b", "--file", "-")):  # fmt: skip
        result = run_cli(*command, input="")
        assert result.returncode == 2
        assert result.stderr.startswith("error: standard input: "), result.stderr


def test_models_lists_families_and_presets() -> None:
    listed = ok_json("models")
    families = {family["model_type"] for family in listed["families"]}
    assert {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe"} <= families
    presets = {preset["name"] for preset in listed["presets"]}
    assert {"OLMoE-1B-7B", "Qwen1.5-MoE-A2.7B", "Qwen3-30B-A3B", "Mixtral-8x7B"} <= presets
    text = ok("models")
    assert all(name in text for name in families | presets)


def test_doctor_finds_this_installation_well(tmp_path: pathlib.Path) -> None:
    found = ok_json("doctor", "--dir", tmp_path)
    assert found["ok"]
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["native module"]["status"] == checks["moe_runner"]["status"] == "ok"
    assert [checks[name]["detail"] for name in PINNED] == [pinned(name) for name in PINNED]
    # Nothing is left behind.
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_exports_took(tmp_path: pathlib.Path) -> None:
    meminfo = tmp_path / "meminfo"
    for available, status, missing in (
        (64 << 30, "ok", []),
        (3 << 30, "warn", ["Qwen3-30B-A3B"]),
        (1 << 30, "warn", [name for name, _ in EXPORTS]),
    ):
        meminfo.write_text(f"MemAvailable: {available >> 10} kB\n")
        check = memory(meminfo)
        assert check.status == status
        for name, peak in EXPORTS:
            assert f"{name} {size(peak, 'up')}" in check.detail
            assert (name in (check.remedy or "")) == (name in missing)
    assert "Qwen3-30B-A3B 3.7 GiB" in ok("doctor", "--dir", tmp_path)


def test_doctor_fails_without_a_runner() -> None:
    result = run_cli("doctor", env=without_engine())
    assert result.returncode == 3
    assert re.search(r"^fail +moe_runner +moe_runner is not installed$", result.stdout, re.M)
    assert "MOE_MOBILE_RUNNER" in result.stdout


def test_doctor_names_a_folder_it_cannot_use(tmp_path: pathlib.Path) -> None:
    checks = {check.name: check for check in run_checks(tmp_path / "none")}
    assert checks["disk"].status == checks["direct reads"].status == "fail"
    assert all(check.remedy for check in checks.values() if check.status != "ok")


def test_doctor_says_what_a_home_that_cannot_be_written_is_for() -> None:
    result = run_cli("doctor", env=os.environ | {"MOE_MOBILE_STATE_DIR": "/proc/nope/.local"})
    assert result.returncode == 3
    lines = result.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fail"))
    assert re.match(r"fail +state folder +/proc/nope: cannot create the folder", lines[at])
    assert "the secret by which this machine knows its packed weights" in lines[at]
    assert "MOE_MOBILE_STATE_DIR" in lines[at + 1]


def test_commands_that_need_the_engine_say_how_to_get_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bundle.json").touch()
    result = run_cli("prepare", tmp_path, "--json", env=without_engine())
    assert result.returncode == errors.RuntimeFailedError.exit_code
    assert json.loads(result.stdout)["error"]["file"] == "/nowhere/moe_runner"


def test_the_package_runs_as_a_module_too() -> None:
    command = [sys.executable, "-m", "moe_mobile", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == ok("--version")


@pytest.mark.parametrize("command", [["inspect"], ["generate", "-p", "x"], ["verify"]])
def test_arguments_must_be_utf8(command: list[str], tmp_path: pathlib.Path) -> None:
    result = subprocess.run(
        [*map(str.encode, (*COMMAND, *command)), bytes(tmp_path) + b"/\xff"], capture_output=True
    )
    assert result.returncode == 2
    assert b"is not UTF-8" in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(("closed", "code"), [("<&-", 4), (">&-", 6), ("2>&-", 4)])
def test_closed_streams_give_no_traceback(closed: str, code: int, tmp_path: pathlib.Path) -> None:
    command = shlex.join([*COMMAND, "inspect", str(tmp_path)])
    result = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, text=True)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert ("error: " in result.stderr) == (closed != "2>&-")


def test_a_closed_pipe_gives_no_traceback() -> None:
    program = [*COMMAND, "bench", "--help"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["models", "--json"], ["models"], ["doctor", "--json"]])
def test_a_full_stdout_is_a_typed_error(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == errors.DiskFullError.exit_code
    assert result.stderr.startswith("error: standard output: no space left on the device\n")
    assert result.stderr.count("\n") == 2  # and nothing else


def test_an_error_is_reported_even_if_stdout_is_full() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*COMMAND, "inspect", "/nowhere", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 4
    assert result.stderr.startswith("error: /nowhere: not a bundle: there is no such folder\n")
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize(
    ("bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5_138_022, "4.9 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes(bytes: int, text: str) -> None:
    assert size(bytes) == text


def test_tables_align() -> None:
    assert table(["name", "n"], [["a", "10"], ["bcdef", "1"]]).splitlines() == [
        "name    n",
        "-----  --",
        "a      10",
        "bcdef   1",
    ]
