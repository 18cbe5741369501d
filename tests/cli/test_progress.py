# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a person sees of long work: units, totals of the whole, rates of the new work alone."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

from moe_mobile.cli.progress import ProgressBar
from moe_mobile.device.local import LocalDevice
from tests.cli.program import COMMAND, ok, ok_json
from tests.terminal import Terminal

MIB = 1 << 20
Step = tuple[str, int, int]


@pytest.fixture
def lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """What a log has of steps that come every eleven seconds."""
    now = iter(range(0, 10**6, 11))
    monkeypatch.setattr("time.monotonic", lambda: next(now))

    def run(*steps: Step, name: str = "") -> list[str]:
        with ProgressBar(name=name) as bar:
            for step in steps:
                bar(*step)
        return capsys.readouterr().err.splitlines()

    return run


def test_resumed_work_has_the_rate_of_the_new_work(lines: Callable[..., list[str]]) -> None:
    shown = lines(("export", 600, 6144), ("export", 611, 6144), ("export", 633, 6144))
    assert shown == [
        "exporting: 611 of 6,144 experts",
        "exporting: 633 of 6,144 experts, 2 per s, about 45 min left for experts",
    ]


def test_the_rate_of_an_export_begins_with_the_first_expert(
    lines: Callable[..., list[str]],
) -> None:
    """Lowering comes before it, and is done once."""
    shown = lines(*(("export", done, 64) for done in (0, 0, 0, 0, 1, 12)))
    assert shown[:-1] == [*["exporting: 0 of 64 experts"] * 3, "exporting: 1 of 64 experts"]
    assert shown[-1] == "exporting: 12 of 64 experts, 1 per s, about 52 s left for experts"


def test_what_follows_the_last_expert_has_no_estimate(lines: Callable[..., list[str]]) -> None:
    """The head is lowered then, which may take a minute."""
    shown = lines(*(("export", done, 24) for done in (0, 1, 12, 24, 24)))
    assert [line.split(", ")[1:] for line in shown] == [
        [], ["1 per s", "about 12 s left for experts"], [], [],
    ]  # fmt: skip


def test_a_bar_of_an_export_promises_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressBar() as bar:
        for done in (0, 1, 2, 3):
            bar("export", done, 3, "head")
            bar._bar.refresh()  # type: ignore[union-attr]
    *_, before, last = (one for one in capsys.readouterr().err.split("\r") if "/3 experts" in one)
    assert re.search(r"2/3 experts \[\d\d:\d\d<[\d:?]+ for experts", before) is not None
    assert re.search(r"3/3 experts \[\d\d:\d\d, ", last) is not None


def test_bytes_are_shown_in_mib(lines: Callable[..., list[str]]) -> None:
    (shown,) = lines(("verify", 0, 100 * MIB + 1), ("verify", 55 * MIB + 9, 100 * MIB + 1))
    assert shown == "verifying: 55 of 101 MiB, 5 per s, about 10 s left"


def test_the_rate_begins_again_with_another_package(lines: Callable[..., list[str]]) -> None:
    """One that was cut, of another length; one of the same length that had less."""
    steps = [(0, 90), (11, 90), (60, 170), (82, 170), (5, 170), (16, 170)]
    shown = lines(*(("deploy", done, total) for done, total in steps), name="phone1")
    assert [line.split(", ")[1] for line in shown] == ["1 per s", "2 per s", "1 per s"]
    assert all(line.startswith("phone1 sending: ") for line in shown)


def test_a_prepare_that_continues_begins_at_what_is_packed(
    exported: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported[0], bundle)
    store = pathlib.Path(ok_json("prepare", bundle)["packed_dir"])
    (store / "layer-01.packed").unlink()
    steps: list[Step] = []
    with LocalDevice().runner() as runner:
        runner.request(
            "prepare",
            bundle=str(bundle),
            progress=lambda stage, done, total, detail="": steps.append((stage, done, total)),
        )
    assert steps == [("prepare", done, 16) for done in range(8, 17)]


def on_terminal(*arguments: object, columns: int = 80) -> tuple[int, str]:
    """The exit code and what a terminal of that width got of stdout and stderr."""
    terminal = Terminal(columns)
    end = terminal.descriptor
    command = [*COMMAND, *map(str, arguments)]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end) as process:
        shown = terminal.attached()
        code = process.wait()
    return code, shown()


def screen(text: str, columns: int) -> list[str]:
    """The lines that are left on a terminal, as far as our output needs one: \\r, \\n, up."""
    rows: list[list[str]] = [[]]
    row = column = 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\r\n\x1b]", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
        elif part == "\x1b[A":
            row = max(row - 1, 0)
        else:
            while len(rows) <= row:
                rows.append([])
            rows[row] += [" "] * (column + 1 - len(rows[row]))
            rows[row][column] = part
            column += 1
            assert column <= columns, "a line wraps"
        while len(rows) <= row:
            rows.append([])
    return ["".join(one).rstrip() for one in rows]


def test_rows_and_the_bar_do_not_write_over_each_other(bundle: pathlib.Path) -> None:
    tests = ("-p", 3, "-n", "2,4", "-r", 2, "--threads", 1)
    columns = 260
    code, shown = on_terminal("bench", bundle, *tests, columns=columns)
    assert code == 0, shown
    assert "repetitions" in shown
    left = [line for line in screen(shown, columns) if line]
    rows = [line for line in left if line.startswith("|")]
    assert len(rows) == 5
    assert len({line.count("|") for line in rows}) == 1
    assert not any("measuring" in line for line in left)


@pytest.mark.parametrize("columns", [40, 80])
def test_a_bar_is_as_wide_as_the_terminal(
    columns: int, exported: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported[0], bundle)
    total = -(-ok_json("verify", bundle)["bytes"] // MIB)
    code, shown = on_terminal("verify", bundle, columns=columns)
    assert code == 0
    assert f"/{total} MiB" in shown
    for drawn in re.split(r"[\r\n]", shown):
        if "verifying" in drawn:
            assert len(drawn) <= columns


def test_a_text_is_scored_in_tokens_of_all_settings(tmp_path: pathlib.Path) -> None:
    rows = tmp_path / "rows.jsonl"
    asked = ("quality", "demo", "-p", "Once upon a time there was a little cat", "-o", rows)
    ok(*asked, "--routing", "exact")
    code, shown = on_terminal(*asked, "--resume", "--routing", "exact,max-rank:6", columns=120)
    assert code == 0
    first = next(part for part in re.split(r"[\r\n]", shown) if "scoring" in part)
    found = re.search(r"(\d+)/(\d+) tokens", first)
    assert found is not None
    assert 2 * int(found[1]) == int(found[2])
