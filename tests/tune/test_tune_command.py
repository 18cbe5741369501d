# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile tune` as a user runs it, and its settings where they are used."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from moe_mobile.bundle import inspect_bundle
from moe_mobile.demo import heldout_text
from moe_mobile.tune.settings_file import read_settings, write_settings
from moe_mobile.virtual_phone import VirtualPhone
from tests.bundles import BundleMaker, DemoMaker
from tests.cli.program import COMMAND, INTERRUPTIBLE, failed, ok, ok_json, run_cli
from tests.phones import wait_until

SMALL = ("-n", 1100, "--routing", "cache-prior:0.2,J=2,max-rank:8", "--quality", "+5%")


@pytest.fixture(scope="module")
def demo(demo_bundle: DemoMaker) -> Path:
    return demo_bundle()


@pytest.fixture(scope="module")
def tuned(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with what a search wrote, and what it printed. Not to be written to."""
    folder = tmp_path_factory.mktemp("tuned")
    written = ("--out", folder / "rows.jsonl", "--save-settings", folder / "settings.json")
    page = ("--report", folder / "page.html")
    return folder, ok_json("tune", demo, *SMALL, "--cache", "25%,50%", *written, *page)


def test_finds_the_routing_that_reads_less(demo: Path, tuned: tuple[Path, dict[str, Any]]) -> None:
    folder, document = tuned
    assert document["device"] == "local"
    assert document["source_id"] == inspect_bundle(demo)["hash"]
    rows = document["rows"]
    assert [(row["routing"], row["capacity"]) for row in rows] == [
        (routing, capacity)
        for capacity in (8, 16)
        for routing in ("exact", "cache-prior:0.2,J=2", "max-rank:8,J=2")
    ]
    for group in (rows[:3], rows[3:]):
        (chosen,) = [row for row in group if row["chosen"]]
        exact = group[0]
        assert chosen["lossy"]
        assert chosen["loads_per_token_layer"] < 0.7 * exact["loads_per_token_layer"]
        assert chosen["change"] + chosen["change_error"] <= 0.05
        assert (exact["verdict"], exact["change"], exact["lossy"]) == ("exact", 0, False)
    settings = read_settings(folder / "settings.json")
    assert [choice.settings.cache for choice in settings.choices] == ["50%", "25%"]
    assert settings.choices[0].measured.tokens == 1100
    assert (folder / "page.html").read_bytes().startswith(b"<!doctype html>")


def test_rows_are_those_of_quality(
    demo: Path, tuned: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(heldout_text(), encoding="utf-8")
    scored = ok_json("quality", demo, "-f", text, "-n", 1100, "--routing", "cache-prior:0.2,J=2")
    both = [tuned[1]["rows"][3:5], scored["rows"]]
    names = ("routing", "perplexity", "nll", "loads", "changed", "hits", "change", "change_error")
    one, other = ([{name: row[name] for name in names} for row in rows] for rows in both)
    assert one == other


def test_continues_an_interrupted_search(
    demo: Path, tuned: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    lines = (tuned[0] / "rows.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 6
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(lines[:4]) + lines[4][:50])
    command = ("tune", demo, *SMALL, "--cache", "25%,50%", "--out", rows)
    assert "--resume" in failed(2, *command)["remedy"]
    again = ok_json(*command, "--resume", "--jobs", 1)
    assert again == tuned[1]
    assert sorted(rows.read_text().splitlines(keepends=True)) == sorted(lines)


def test_settings_are_used(demo: Path, tuned: tuple[Path, dict[str, Any]]) -> None:
    file = tuned[0] / "settings.json"
    wanted = {choice.settings.cache: choice.settings for choice in read_settings(file).choices}

    def used(*arguments: object) -> dict[str, Any]:
        settings = ok_json("info", demo, "--settings", file, *arguments)["settings"]
        names = ("cache", "routing", "pool", "eviction", "initial_cache", "precision")
        return {name: settings[name] for name in names}

    assert used() == vars(wanted["50%"])
    assert used("--cache", "25%") == vars(wanted["25%"])
    # What is given wins.
    assert used("--routing", "exact", "--initial-cache", "cold") == vars(wanted["50%"]) | {
        "routing": "exact",
        "initial_cache": "cold",
    }
    asked = ("generate", demo, "--settings", file, "--token-ids", "5,6,7", "-n", 4)
    generated = ok_json(*asked)
    assert generated["routing"]["resolved"] == wanted["50%"].routing
    assert generated["routing"]["lossy"]
    other = run_cli(*asked, "--cache", "75%")
    assert other.returncode == 0, other.stderr
    assert "no settings for a cache of 75%: those for 50% are used" in other.stderr
    for cache in ("12%", "512MiB"):
        error = failed(2, *asked, "--cache", cache)
        assert error["file"] == str(file)
        assert "25%" in error["cause"]
    (row,) = ok_json("bench", demo, "--settings", file, "-p", 0, "-n", 4, "-r", 1)
    assert row["routing"]["resolved"] == wanted["50%"].routing
    assert (row["config"]["initial_cache"], row["config"]["pool"]) == ("prompt", "layer")
    (row,) = ok_json("bench", demo, "--settings", file, "-n", 4, "-p", 0, "-r", 1, "--routing",
                     "exact", "--pool", "global")  # fmt: skip
    assert (row["routing"]["resolved"], row["config"]["pool"]) == ("exact", "global")


def test_each_cache_of_a_grid_has_its_settings(
    demo: Path, tuned: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    settings = read_settings(tuned[0] / "settings.json")
    large, small = settings.choices
    other = dataclasses.replace(small.settings, routing="max-rank:5,J=1", eviction="lfu:0.9")
    file = tmp_path / "settings.json"
    choices = (large, dataclasses.replace(small, settings=other))
    write_settings(file, dataclasses.replace(settings, choices=choices))
    asked = ("bench", demo, "--settings", file, "-p", 0, "-n", 2, "-r", 1)
    rows = ok_json(*asked, "--cache", "25%,50%")
    assert [row["config"]["cache"] for row in rows] == ["25%", "50%"]
    for row, wanted in zip(rows, (other, large.settings), strict=True):
        assert row["routing"]["resolved"] == wanted.routing
        assert row["config"]["eviction"] == wanted.eviction
    # What is given wins, for all of them.
    rows = ok_json(*asked, "--cache", "25%,50%", "--routing", "exact,max-rank:6")
    assert [row["routing"]["requested"] for row in rows] == ["exact", "max-rank:6"] * 2
    assert [row["config"]["eviction"] for row in rows] == ["lfu:0.9"] * 2 + ["lru"] * 2


@pytest.mark.parametrize(
    ("changed", "cause"),
    [({"routing": "cache-prior:0.2,J=99"}, "J=99"), ({"cache": "1%"}, "does not hold")],
    ids=str,
)
def test_settings_that_do_not_fit_the_model_name_their_file(
    changed: dict[str, str],
    cause: str,
    demo: Path,
    tuned: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    settings = read_settings(tuned[0] / "settings.json")
    first, *others = settings.choices
    broken = dataclasses.replace(first, settings=dataclasses.replace(first.settings, **changed))
    path = tmp_path / "settings.json"
    write_settings(path, dataclasses.replace(settings, choices=(broken, *others)))
    for command in ("generate", "bench", "info", "deploy"):
        error = failed(2, command, demo, "--settings", path)
        assert error["file"] == str(path)
        assert cause in error["cause"]


def test_settings_need_a_cache(demo: Path, tuned: tuple[Path, dict[str, Any]]) -> None:
    for command in ("info", "bench"):
        file = tuned[0] / "settings.json"
        error = failed(2, command, demo, "--settings", file, "--residency", "resident")
        assert error["file"] == str(file)
        assert "resident" in error["cause"]


def test_settings_of_another_bundle_are_refused(
    demo: Path, tuned: tuple[Path, dict[str, Any]], bundle: BundleMaker
) -> None:
    file, other = tuned[0] / "settings.json", bundle("qwen3_moe")
    for command in ("generate", "bench", "info"):
        error = failed(2, command, other, "--settings", file)
        assert inspect_bundle(demo)["hash"] in error["cause"]
        assert inspect_bundle(other)["hash"] in error["cause"]


def test_speed_is_measured_in_turns(
    demo: Path, tuned: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes((tuned[0] / "rows.jsonl").read_bytes())
    command = ("tune", demo, *SMALL, "--out", rows, "--resume", "--measure-speed")
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    first = ok_json(*command, "--save-settings", out, "--report", page)
    measured = [row for row in first["rows"] if row["tokens_per_second"] is not None]
    assert measured[0]["routing"] == "exact"
    assert len(measured) >= 2
    assert all(len(row["samples_ts"]) == 5 for row in measured)
    choice = read_settings(out).choices[0].measured
    assert choice.tokens_per_second
    assert choice.exact_tokens_per_second == measured[0]["tokens_per_second"]
    # Kept next to the rows, and not measured again.
    speeds = rows.with_name("rows.jsonl.speed").read_text().splitlines()
    assert len(speeds) == len(measured)
    assert json.loads(speeds[0])["regime"]["order"] == "interleaved"
    assert ok_json(*command) == first


def test_tables_for_people(demo: Path, tuned: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes((tuned[0] / "rows.jsonl").read_bytes())
    text = ok("tune", demo, *SMALL, "--out", rows, "--resume")
    assert "cache of 50%: 16 of 32 experts per layer" in text
    assert "chosen: cache 50%, routing " in text
    assert " of exact routing's loads, perplexity " in text
    strict = ok("tune", demo, *SMALL[:4], "--quality", "+0%", "--out", rows, "--resume")
    assert "chosen: cache 50%, routing exact: the model's own choice of experts" in strict
    assert "warning: only exact routing is surely within +0%" in strict


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (("--quality", "good"), 2, "--quality"),
        (("--quality", "1.5"), 2, "exact routing has a perplexity of"),
        (("--cache", "0%"), 2, "--cache"),
        (("--cache", "2"), 9, "4"),
        (("--cache", "50%,1"), 9, "1: a cache for 1 experts"),
        (("--cache", "1"), 9, "--cache"),
        (("--cache", "33"), 2, "--cache"),
        (("--resume",), 2, "--out"),
        (("--routing", "nonsense"), 2, "nonsense"),
        (("--routing", "exact+drop-cold:1", "--drop-cold", "1"), 2, "--drop-cold"),
        (("--ray", "local", "--device", "any"), 2, "--device"),
        (("--out", "same", "--save-settings", "same"), 2, "both name the same file"),
        (("--dtype", "bfloat16"), 2, "--dtype"),
        (("-n", "1"), 2, "longer text"),
        (("-c", "1"), 2, "context"),
        (("--drop-cold", "0.5,x"), 2, "--drop-cold"),
        (("--residency", "resident"), 2, "--residency"),
    ],
)
def test_invalid_arguments(
    demo: Path, arguments: tuple[str, ...], code: int, what: str, tmp_path: Path
) -> None:
    error = failed(code, "tune", demo, "--routing", "exact", "-n", 200, *arguments)
    assert what in " ".join(filter(None, map(str, error.values())))


@pytest.mark.parametrize("option", ["--out", "--save-settings", "--report"])
def test_an_unwritable_place_is_an_error_at_once(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "x", Path("/proc/x")):
        # Before the bundle is looked at.
        error = failed(6, "tune", tmp_path, option, place)
        assert (error["code"], error["file"]) == ("io", str(place))
        assert error["remedy"]
    assert failed(2, "tune", tmp_path, option, tmp_path)["cause"].endswith("is a directory")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_bundle_called_demo_is_not_a_checkpoint(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").symlink_to(demo)
    monkeypatch.chdir(tmp_path)
    for command in (
        ("tune", "demo", "-n", 100, "--save-settings", "demo/bundle.json"),
        ("quality", "demo", "--token-ids", "5,6", "--out", "demo/bundle.json"),
        ("trace", "demo", "--token-ids", "5,6", "-o", "demo/bundle.json"),
    ):
        assert "BUNDLE|MODEL" in failed(2, *command)["setting"]
    assert ok_json("inspect", "demo")["hash"]


def test_writes_over_nothing_it_reads(demo: Path, tmp_path: Path) -> None:
    text, rows = tmp_path / "my.txt", tmp_path / "rows.jsonl"
    text.write_text("my own words")
    (tmp_path / "link").symlink_to(text)
    manifest = (demo / "bundle.json").read_bytes()
    speeds = tmp_path / "rows.jsonl.speed"
    for options in (
        ("--file", text, "--save-settings", text),
        ("--file", text, "--out", tmp_path / "link"),
        ("--file", text, "--report", text),
        ("-n", 100, "--save-settings", demo / "bundle.json"),
        ("-n", 100, "--out", rows, "--save-settings", speeds, "--measure-speed"),
    ):
        error = failed(2, "tune", demo, "--routing", "max-rank:8", *options)
        assert error["setting"].count("--") >= 1
        assert error["remedy"]
    assert text.read_text() == "my own words"
    assert (demo / "bundle.json").read_bytes() == manifest
    # Old speeds are reported before the search.
    speeds.write_text('{"n_prompt": 1}\n')
    error = failed(2, "tune", demo, "-n", 100, "--out", rows, "--measure-speed")
    assert error["file"] == str(speeds)
    assert "--resume" in error["remedy"]


def test_needs_a_text_of_its_own(bundle: BundleMaker) -> None:
    error = failed(2, "tune", bundle("qwen3_moe"))
    assert error["setting"] == "--file"


def test_a_page_replaces_pages_alone(demo: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("my own page")
    error = failed(2, "tune", demo, *SMALL, "--report", mine)
    assert error["file"] == str(mine)
    assert mine.read_text() == "my own page"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interruption_ends_everything(demo: Path, tmp_path: Path, jobs: int) -> None:
    rows = tmp_path / "rows.jsonl"
    command = [*COMMAND, "tune", str(demo), "--out", str(rows), "-n", "2048", "--jobs", str(jobs)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: rows.exists() and rows.stat().st_size > 0)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=1200)
    assert process.returncode == 130, told
    assert "stopped by the user" in told
    assert "Traceback" not in told
    find = ["pgrep", "-g", str(process.pid)]
    wait_until(lambda: subprocess.run(find, capture_output=True).stdout == b"")
    assert all(json.loads(line)["key"] for line in rows.read_text().splitlines())


def test_an_interruption_finds_workers_that_only_begin(demo: Path) -> None:
    command = [*INTERRUPTIBLE, "tune", str(demo), "-n", "2048", "--jobs", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    workers = ["pgrep", "-g", str(process.pid), "-f", "spawn_main"]
    wait_until(lambda: len(subprocess.run(workers, capture_output=True).stdout.split()) == 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, told = process.communicate(timeout=1200)
    assert process.returncode == 130, told
    assert "Traceback" not in told


def test_on_a_phone(shared_phone: VirtualPhone, bundle: BundleMaker, tmp_path: Path) -> None:
    tiny = bundle("qwen3_moe")
    ids = ",".join(str(7 * n * n % 90) for n in range(80))
    asked = ("tune", tiny, "--token-ids", ids, "--routing", "cache-prior:0.3,J=1", "--cache", "75%")
    page = tmp_path / "page.html"
    there = ok_json(*asked, "--device", shared_phone.serial, "--report", page, "--measure-speed")
    assert there["device"] == shared_phone.serial
    assert shared_phone.serial in page.read_text()
    names = ("routing", "nll", "loads", "verdict")
    here = ok_json(*asked)
    one, other = ([{n: row[n] for n in names} for row in of["rows"]] for of in (here, there))
    assert one == other


def test_a_checkpoint_is_searched_too(tmp_path: Path) -> None:
    # transformers has it; there are no settings to write, but everything else.
    page = tmp_path / "page.html"
    arguments = ("--routing", "cache-prior:0.3", "-n", 700, "--quality", "+9%", "--report", page)
    # In a folder where nothing is called demo.
    result = run_cli("tune", "demo", *arguments, "--json", cwd=tmp_path)
    document = json.loads(result.stdout)
    assert (document["source"], document["device"]) == ("transformers", None)
    assert [row["lossy"] for row in document["rows"]] == [False, True]
    assert page.exists()
    refused = run_cli("tune", "demo", "--save-settings", "x.json", cwd=tmp_path)
    assert (refused.returncode, "error: --save-settings: " in refused.stderr) == (2, True)
