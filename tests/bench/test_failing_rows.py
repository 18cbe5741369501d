# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Configurations that are killed or do not fit: reported, and the other rows go on."""

from __future__ import annotations

import copy
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from moe_mobile import errors
from moe_mobile.bench.driver import BundleFacts, Cell, Protocol
from moe_mobile.bench.fleet import Fleet, Plan
from moe_mobile.bench.measure import measure
from moe_mobile.bench.row import BenchTest, Row
from moe_mobile.bench.store import ResultFile
from moe_mobile.bench.target import open_target
from moe_mobile.device.local import LocalDevice
from moe_mobile.errors import MoeMobileError
from moe_mobile.runner import find_runner
from tests.bench.scripted import changed, row_of, settings
from tests.bundles import BundleMaker
from tests.cli.program import run_cli

BAD_DAY = """#!{python}
import json, os, signal, subprocess, sys
runner = subprocess.Popen([{runner!r}, "--attached"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(runner.stdout.readline().decode(), end="", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    cache = request.get("settings", {{}}).get("cache")
    if cache == "40%" and not os.path.exists({cured!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    if cache == "41%":
        print(json.dumps(dict(id=request["id"], event="error", error=dict(
            code={code!r}, cause="too small", setting="cache"))), flush=True)
        continue
    runner.stdin.write(line.encode())
    runner.stdin.flush()
    while True:
        event = runner.stdout.readline().decode()
        print(event, end="", flush=True)
        if json.loads(event)["event"] in ("result", "error"):
            break
"""


def _bad_day(folder: pathlib.Path, code: str = "budget") -> dict[str, str]:
    """An environment whose runner is killed with a cache of 40 %, and refuses one of 41 %."""
    program = folder / "moe_runner"
    runner, cured = str(find_runner()), str(folder / "cured")
    program.write_text(BAD_DAY.format(python=sys.executable, runner=runner, cured=cured, code=code))
    program.chmod(0o755)
    return os.environ | {"MOE_MOBILE_RUNNER": str(program)}


def _bench(
    model: pathlib.Path, environment: dict[str, str], *arguments: object
) -> subprocess.CompletedProcess[str]:
    grid = ("bench", model, "-p", 0, "-n", 2, "-r", 2, "--warmup", 0)
    return run_cli(*grid, *arguments, env=environment)


def _kept(out: pathlib.Path) -> list[str]:
    return [json.loads(line)["config"]["cache"] for line in out.read_text().splitlines()]


@pytest.mark.parametrize("interleave", [[], ["--interleave"]])
def test_a_row_that_fails_does_not_stop_the_others(
    bundle: BundleMaker, tmp_path: pathlib.Path, interleave: list[str]
) -> None:
    model, environment = bundle("qwen3_moe"), _bad_day(tmp_path)
    out = tmp_path / "rows.jsonl"
    grid = ("--cache", "40%,41%,50%,60%", "--out", out, *interleave)
    first = _bench(model, environment, *grid)
    assert first.returncode == errors.KilledError.exit_code, first.stderr
    assert _kept(out) == ["50%", "60%"]
    assert "cache 40%, tg2: moe_runner was killed by SIGKILL" in first.stderr
    assert "cache 41%, tg2: too small" in first.stderr
    # No repetition follows that would fail in the same way.
    assert first.stderr.count("--resume measures what is missing") == 1
    assert first.stdout.count(" tg2 |") == 2

    # What failed is tried again, and still stops nothing; JSON has all of it.
    more = ("--cache", "40%,41%,50%,60%,70%", "--out", out, "--resume", *interleave)
    second = _bench(model, environment, *more, "--json")
    assert second.returncode == errors.KilledError.exit_code
    *rows, killed, refused = json.loads(second.stdout)
    assert [row["config"]["cache"] for row in rows] == _kept(out) == ["50%", "60%", "70%"]
    assert (killed["error"]["code"], refused["error"]["code"]) == ("killed", "budget")
    (tmp_path / "cured").touch()
    third = _bench(model, environment, *more)
    assert third.returncode == errors.BudgetError.exit_code
    assert _kept(out) == ["50%", "60%", "70%", "40%"]
    assert not (tmp_path / "rows.jsonl.turns").exists()


def test_errors_are_all_there_is_to_tell(bundle: BundleMaker, tmp_path: pathlib.Path) -> None:
    model, environment = bundle("qwen3_moe"), _bad_day(tmp_path)
    one = _bench(model, environment, "--cache", "40%", "--json")
    assert one.returncode == errors.KilledError.exit_code
    # A row alone needs no name.
    assert json.loads(one.stdout)["error"]["cause"].startswith("moe_runner was killed")
    two = _bench(model, environment, "--cache", "41%,40%", "--json")
    assert two.returncode == errors.BudgetError.exit_code
    assert [error["error"]["code"] for error in json.loads(two.stdout)] == ["budget", "killed"]
    # A failure that the row did not cause ends the grid.
    full = _bench(model, _bad_day(tmp_path, "disk_full"), "--cache", "41%,50%", "--json")
    assert full.returncode == errors.DiskFullError.exit_code
    assert json.loads(full.stdout)["error"]["code"] == "disk_full"


def test_errors_are_raised_if_nothing_collects_them(
    facts: BundleFacts, device: LocalDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_target(device, facts)
    grid = [(BenchTest(0, 2), settings(cache=cache)) for cache in ("25%", "50%")]

    def killed(self: object) -> None:
        raise errors.KilledError("killed")

    monkeypatch.setattr("moe_mobile.bench.measure._Opened.__enter__", killed)
    told: list[tuple[str, str]] = []

    def tell(row: Cell, error: MoeMobileError) -> None:
        told.append((row[1].cache.size, error.code))

    for protocol in (Protocol(), Protocol(interleave=True)):
        with pytest.raises(errors.KilledError):
            list(measure(target, grid, protocol))
        assert list(measure(target, grid, protocol, failed=tell)) == []
    assert told == [("25%", "killed"), ("50%", "killed")] * 2


def test_a_row_that_could_not_be_read_again_is_not_kept(
    facts: BundleFacts, device: LocalDevice, tmp_path: pathlib.Path
) -> None:
    row = row_of(device, facts, BenchTest(0, 2))
    path = tmp_path / "rows.jsonl"
    file = ResultFile(path, resume=False)
    changes: list[dict[str, Any]] = [
        {"rss_bytes": -1},
        {"avg_ts": float("nan")},
        {"tokens": [[{}]]},
    ]
    for change in changes:
        with pytest.raises(errors.RuntimeFailedError, match="does not fit its schema"):
            file.append(changed(row, **change))
    assert path.read_text() == ""
    shown: list[Row] = []
    plan = Plan(
        bundle=facts, rows=[(BenchTest(0, 2), settings())], protocol=Protocol(1), gate=None,
        gate_asked=False, affinity="all", packed_dir=None,
    )  # fmt: skip
    fleet = Fleet(plan, file=file, show=shown.append, note=lambda text: None)
    fleet.run(device, lambda *step: None)
    file.close()
    assert (len(shown), fleet.failed) == (1, [])
    file = ResultFile(path, resume=True)
    assert len(file.rows) == 1
    file.close()


def test_turns_of_a_row_that_is_not_kept_are_measured_again(
    facts: BundleFacts,
    device: LocalDevice,
    tmp_path: pathlib.Path,
) -> None:
    target = open_target(device, facts)
    protocol = Protocol(2, interleave=True)
    grid = [(BenchTest(0, 2), settings(cache=cache)) for cache in ("25%", "50%")]
    path, turns = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.turns"
    file = ResultFile(path, resume=False)
    first, second = measure(target, grid, protocol, turns=file.turns)
    with pytest.raises(errors.RuntimeFailedError, match="does not fit its schema"):
        file.append(changed(second, rss_bytes=-1))
    file.close()

    # Those of the other row are still there.
    file = ResultFile(path, resume=True)
    assert [file.turns.get(second.run_key, number) for number in (0, 1)] == [None, None]
    assert all(file.turns.get(first.run_key, number) for number in (0, 1))
    again = list(measure(target, grid, protocol, turns=file.turns))
    assert [row.runs == old.runs for row, old in zip(again, (first, second), strict=True)] == [
        True,
        False,
    ]
    for row in again:
        file.append(row)
    file.close()
    assert not turns.exists()


def test_a_file_with_only_dropped_turns_is_deleted(
    facts: BundleFacts, device: LocalDevice, tmp_path: pathlib.Path
) -> None:
    target, protocol = open_target(device, facts), Protocol(2, interleave=True)
    path = tmp_path / "rows.jsonl"
    file = ResultFile(path, resume=False)
    (row,) = measure(target, [(BenchTest(0, 2), settings())], protocol, turns=file.turns)
    with pytest.raises(errors.RuntimeFailedError, match="not fit its schema"):
        file.append(changed(row, rss_bytes=-1))
    file.close()
    assert not path.with_name("rows.jsonl.turns").exists()
    ResultFile(path, resume=False).close()


@pytest.mark.parametrize(
    ("serials", "caches", "causes"),
    [
        ("a", ["25%"], {"killed"}),
        ("a", ["25%", "50%"], {"cache 25%, tg2: killed", "cache 50%, tg2: killed"}),
        ("ab", ["25%"], {"a: killed", "b: killed"}),
        (
            "ab",
            ["25%", "50%"],
            {
                "a, cache 25%, tg2: killed",
                "a, cache 50%, tg2: killed",
                "b, cache 25%, tg2: killed",
                "b, cache 50%, tg2: killed",
            },
        ),
    ],
)
def test_errors_name_the_row_and_device_if_there_are_several(
    facts: BundleFacts,
    device: LocalDevice,
    monkeypatch: pytest.MonkeyPatch,
    serials: str,
    caches: list[str],
    causes: set[str],
) -> None:
    def killed(self: object) -> None:
        raise errors.KilledError("killed")

    monkeypatch.setattr("moe_mobile.bench.measure._Opened.__enter__", killed)
    devices = [copy.copy(device) for _ in serials]
    for one, serial in zip(devices, serials, strict=True):
        one.serial = serial
    plan = Plan(
        bundle=facts, rows=[(BenchTest(0, 2), settings(cache=cache)) for cache in caches],
        protocol=Protocol(1), gate=None, gate_asked=False, affinity="all", packed_dir=None,
    )  # fmt: skip
    fleet = Fleet(plan, file=None, show=lambda row: None, note=lambda text: None)
    assert fleet.run_all(devices, [lambda *step: None] * len(devices)) == []
    assert {error.cause for error in fleet.failed} == causes


@pytest.mark.parametrize(("seed", "repetitions", "warmup"), [(-1, 1, 1), (2**32 - 2, 2, 1)])
def test_seeds_have_32_bits(seed: int, repetitions: int, warmup: int) -> None:
    with pytest.raises(errors.UsageError, match="is not a valid seed") as caught:
        Protocol(repetitions, warmup, seed)
    assert (caught.value.setting, bool(caught.value.remedy)) == ("seed", True)
    Protocol(repetitions, warmup, 2**32 - 3)
