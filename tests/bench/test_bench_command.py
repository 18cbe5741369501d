# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile bench` on this machine and on virtual phones, as a user runs it."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
from typing import Any

import jsonschema
import pytest

from moe_mobile.device.select import open_device
from tests.bench.test_result_rows import SCHEMA
from tests.bundles import BundleMaker
from tests.cli.program import COMMAND, INTERRUPTIBLE, failed, ok, run_cli
from tests.phones import StartPhone, wait_until


@pytest.fixture(scope="module")
def model(bundle: BundleMaker) -> pathlib.Path:
    return bundle("qwen3_moe")


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        jsonschema.validate(row, SCHEMA)
    return rows


def test_a_grid_continues(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "rows.jsonl"
    grid = ("bench", model, "-p", 0, "-n", "3,4", "-r", 1, "--out", out)
    ok(*grid, "--cache", "60%")
    first = out.read_text()
    error = failed(2, *grid, "--cache", "60%")
    assert "--resume" in error["remedy"]
    assert error["file"] == str(out)
    out.write_text(first[:-100])  # the second row is torn
    result = run_cli(*grid, "--cache", "60%,100%", "--resume", "--format", "jsonl")
    assert result.returncode == 0
    assert "1 of 4 rows are measured already" in result.stderr
    rows = _rows(out)
    assert out.read_text().startswith(first.splitlines()[0])
    assert [(row["config"]["cache"], row["n_gen"]) for row in rows] == [
        ("60%", 3), ("60%", 4), ("100%", 3), ("100%", 4),
    ]  # fmt: skip
    assert all(row["tokens"] for row in rows)
    # What is printed is all of the grid, without the tokens of the file.
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["run_key"] for row in printed] == [row["run_key"] for row in rows]
    assert not any("tokens" in row for row in printed)
    # Other settings are other rows.
    result = run_cli(*grid, "--cache", "60%", "--seed", 1, "--resume", "--format", "observer")
    assert "measured already" not in result.stderr
    assert result.stdout.count("PyTorchObserver {") == 2
    assert len(_rows(out)) == 6


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--resume"], "needs --out"),
        (["--cool-to", "warm"], "is not a temperature"),
        (["--cool-to", "40F"], "is not a temperature"),
        (["--cool-timeout", "nan"], "'nan' is not a finite number"),
        (["--cool-timeout", "inf"], "'inf' is not a finite number"),
        (["--cool-to", "off", "--cool-timeout", "inf"], "'inf' is not a finite number"),
        (["--affinity", "fast"], "neither big nor all"),
        (["--all", "--device", "R58M"], "contradict"),
    ],
)
def test_wrong_values(model: pathlib.Path, arguments: list[str], cause: str) -> None:
    assert cause in failed(2, "bench", model, "-p", 0, "-n", 2, *arguments)["cause"]


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (["-p", "x"], "-p"),
        (["-n", "x"], "-n"),
        (["-pg", "16"], "-pg"),
        (["-pg", "16,0"], "-pg"),
        (["--cache", ","], "--cache"),
        (["--lanes", "0"], "--lanes"),
        (["-t", "0"], "-t"),
        (["--residency", "foo"], "--residency"),
        (["--seed", 2**32 - 5], "--seed"),
    ],
)
def test_wrong_values_say_how_to_write_them(
    model: pathlib.Path, arguments: list[str], setting: str
) -> None:
    error = failed(2, "bench", model, *arguments)
    assert error["setting"] == setting
    assert error["remedy"]


def test_a_prompt_may_be_as_long_as_the_generation(model: pathlib.Path) -> None:
    nothing = ("-p", 0, "-n", 0, "-r", 1, "--warmup", 0, "--format", "jsonl")
    (line,) = ok("bench", model, *nothing, "-pg", "4,4").splitlines()
    row = json.loads(line)
    assert (row["n_prompt"], row["n_gen"]) == (4, 4)


def test_an_unwritable_plot_is_an_error_before_measuring(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").touch()
    plot = tmp_path / "file" / "x.html"
    error = failed(6, "bench", model, "-p", 0, "-n", 2, "--out", tmp_path / "o", "--plot", plot)
    assert error["file"] == str(plot)
    assert error["remedy"]
    assert not (tmp_path / "o").exists()


def test_a_plot_is_not_drawn_over_the_rows(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    out, plot = tmp_path / "rows.html", tmp_path / "link" / "rows.html"
    command = ("bench", model, "-p", 0, "-n", 2, "--out", out, "--plot", plot)
    assert "the same file" in failed(2, *command)["cause"]
    assert not out.exists()
    out.touch()
    assert "the same file" in failed(2, *command, "--resume")["cause"]


def test_rows_replace_nothing_that_is_read(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    read = tmp_path / "read"
    read.write_text("mine")
    for option in ("--settings", "--router-trace", "--initial-cache"):
        for written in ("--out", "--plot"):
            error = failed(2, "bench", model, "-p", 0, option, read, written, read)
            assert error["setting"] == f"{written}, {option}"
    manifest = model / "bundle.json"
    assert "BUNDLE" in failed(2, "bench", model, "--resume", "--out", manifest)["setting"]
    assert read.read_text() == "mine"


def test_a_core_that_is_not_there(model: pathlib.Path) -> None:
    error = failed(2, "bench", model, "-p", 0, "-n", 2, "--affinity", "4000")
    assert "local has no core 4000" in error["cause"]


def test_the_engine_is_kept_to_its_cores(model: pathlib.Path) -> None:
    text = ok("bench", model, "-p", 0, "-n", 2, "-r", 1, "--format", "jsonl", "--affinity", "0")
    row = json.loads(text)
    assert row["affinity"] == {"policy": "list", "cpus": [0]}
    assert (row["n_threads"], row["config"]["threads"]) == (1, 1)


def test_one_bench_at_a_time_runs_on_the_given_cores(
    phone: StartPhone, model: pathlib.Path
) -> None:
    one = phone()
    command = ("bench", model, "-p", 0, "-n", 4, "-r", 1, "-s", one.serial, "--affinity", "0")
    row = json.loads(ok(*command, "--format", "jsonl"))
    assert row["affinity"]["cpus"] == row["runs"][0]["cpus"] == [0]
    assert not any("cores" in flag for flag in row["flags"])
    with open_device(one.serial).runner() as other:
        other.request("digest", paths=[])
        row = json.loads(ok(*command, "--format", "jsonl"))
    assert "another engine ran there in repetition 1" in row["flags"]
    with open_device(one.serial).exclusive():
        error = failed(6, *command)
    assert "another command is measuring" in error["cause"]
    assert one.serial in error["file"]


def test_on_phones(phone: StartPhone, model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    hot, cool = phone(), phone()
    hot.misbehave(thermal_status=3, charging=False)
    out = tmp_path / "rows.jsonl"
    command = ("bench", model, "-p", 0, "-n", 8, "-r", 2, "--all", "--cool-timeout", 0.5)
    result = run_cli(*command, "--out", out)
    assert result.returncode == 0, result.stderr
    rows = {row["device"]["serial"]: row for row in _rows(out)}
    assert set(rows) == {hot.serial, cool.serial}
    for row in rows.values():
        assert row["device"]["kind"] == "adb"
        assert row["device"]["virtual"] is True
        assert row["regime"]["gate"] == {"limit_c": 40.0, "timeout_s": 0.5}
        assert 0 < row["pss_bytes"] <= row["peak_rss_bytes"]
        assert row["energy_reliable"] is False
        assert row["flags"][0] == "virtual phone"
        assert row["affinity"]["policy"] in ("big", "all")
        for run in row["runs"]:
            assert run["entry"]["clocks_khz"]
            assert run["samples"][0]["rss_anon"] > 0
            assert run["samples"][0]["battery_mv"] > 3000
    runs = rows[cool.serial]["runs"]
    assert [(run["gate"], run["entry"]["thermal_status"]) for run in runs] == [("passed", 0)] * 2
    assert rows[cool.serial]["regime"]["charging"] is True
    assert rows[cool.serial]["energy_note"] == "the device was charging"
    row = rows[hot.serial]
    assert [run["gate"] for run in row["runs"]] == ["timed_out"] * 2
    assert all(run["waited_s"] >= 0.5 for run in row["runs"])
    assert row["runs"][0]["samples"][0]["thermal_status"] == 3
    assert row["regime"]["charging"] is False
    assert row["flags"][1:] == [
        "waited too long before repetition 1", "throttled in repetition 1 (thermal status 3)",
        "waited too long before repetition 2", "throttled in repetition 2 (thermal status 3)",
    ]  # fmt: skip
    assert hot.serial in result.stdout
    # The same grid is done.
    again = run_cli(*command, "--out", out, "--resume")
    assert again.stderr.count("1 of 1 rows are measured already") == 2

    # A phone that goes away keeps its rows, and does not stop the other.
    arguments = ["bench", str(model), "-p", "0", "-n", "8,9", "-r", "1", "--all", "--json"]
    arguments += ["--cool-timeout", "3600", "--out", str(tmp_path / "lost.jsonl")]
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        _wait_for_rows(tmp_path / "lost.jsonl", 2)
        hot.stop()
        stdout, stderr = process.communicate(timeout=1200)
    assert process.returncode == 12, stderr
    assert "Traceback" not in stderr
    assert "--resume measures what is missing" in stderr
    assert {row["device"]["serial"] for row in _rows(tmp_path / "lost.jsonl")} == {cool.serial}
    *printed, last = json.loads(stdout)
    assert [row["n_gen"] for row in printed] == [8, 9]
    assert last["error"]["code"] == "device"


def _wait_for_rows(path: pathlib.Path, count: int) -> None:
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)


def test_ctrl_c_keeps_what_is_measured(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [*INTERRUPTIBLE, "bench", str(model), "--out", str(out)]
    command += ["-p", "0", "-n", "2,64", "-r", "3", "--cache", "60%,70%,80%,90%,100%", "--json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        _wait_for_rows(out, 2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=1200)
    assert process.returncode == 130
    assert b"stopped by the user" in stderr
    assert b"Traceback" not in stderr
    kept = [row["run_key"] for row in _rows(out)]
    assert 2 <= len(kept) < 10
    *rows, last = json.loads(stdout)
    # A row is kept, then printed.
    assert kept[: len(rows)] == [row["run_key"] for row in rows]
    assert len(rows) >= len(kept) - 1
    assert last["error"]["code"] == "cancelled"
