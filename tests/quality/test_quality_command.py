# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile quality`, of a bundle, a phone and a checkpoint."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.perplexity import heldout_tokens
from moe_mobile.bundle.quantization import DEFAULT_QUANT
from moe_mobile.cli.quality import command
from moe_mobile.demo import heldout_text
from moe_mobile.errors import BudgetError, IoError, MoeMobileError, UsageError
from moe_mobile.quality import sweep
from moe_mobile.quality.engine import EngineSource
from moe_mobile.quality.score import Cache, measure_quality
from moe_mobile.virtual_phone import VirtualPhone
from tests.bundles import DemoMaker
from tests.cli.program import ok_json


def run(*arguments: object) -> Result:
    """In this process, which has imported transformers."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def answer(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.exception
    return json.loads(result.stdout)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(heldout_text()[:3000])
    return path


def test_a_checkpoint_is_scored(text: Path) -> None:
    options = ("-f", text, "-n", 300, "-c", 200, "--cache", "25%,16")
    found = answer("demo", *options, "--routing", "cache-prior:0.2,J=2,exact,max-rank:8,J=1")
    assert (found["model"], found["source"], found["device"]) == ("demo", "transformers", None)
    assert (found["context"], found["experts"], found["top_k"]) == (200, 32, 4)
    rows = found["rows"]
    routings = ["exact", "cache-prior:0.2,J=2", "max-rank:8,J=1"]
    assert [(row["capacity"], row["routing"]) for row in rows] == [
        (capacity, routing) for capacity in (8, 16) for routing in routings
    ]
    assert [row["lossy"] for row in rows] == [False, True, True] * 2
    assert {row["tokens"] for row in rows} == {300}
    assert {row["predictions"] for row in rows} == {298}
    # What is cached changes nothing of what the model itself computes.
    assert rows[0]["perplexity"] == rows[3]["perplexity"]
    assert (rows[3]["change"], rows[3]["change_error"]) == (0, None)
    for row in rows[1:3]:
        assert row["change"] == pytest.approx(row["perplexity"] / rows[0]["perplexity"] - 1)
        assert row["changed"] > 0
        assert row["loads"] < rows[0]["loads"]
    assert "blocks" not in rows[0]


def test_a_table_for_people(text: Path) -> None:
    result = run("demo", "-f", text, "-n", 40, "--routing", "exact+drop-cold:0.75")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("demo, transformers in float32: 6 MoE layers, the best 4 of 32")
    assert "39 of 40 tokens predicted; pool: layer" in lines[0]
    assert lines[2].split() == [
        "routing", "lossy", "per", "layer", "hits", "loads/token-layer", "changed", "dropped",
        "perplexity", "change",
    ]  # fmt: skip
    assert lines[4].startswith("exact   ")
    assert lines[5].startswith("exact+drop-cold:0.75  lossy  16 (50 %)")
    assert lines[5].endswith(" %")


def test_a_bundle_is_scored_here_and_on_a_phone(
    demo_bundle: DemoMaker, shared_phone: VirtualPhone, text: Path
) -> None:
    bundle = demo_bundle()
    options = ("-f", text, "-n", 60, "-t", 1, "--routing", "cache-prior:auto")
    here = answer(bundle, *options)
    assert (here["source"], here["precision"], here["device"]) == (
        "engine",
        DEFAULT_QUANT,
        "local",
    )
    expected = measure_quality(
        EngineSource(str(bundle), settings=(("threads", 1),)),
        heldout_tokens(60),
        Cache("cache-prior:auto", 16),
    )
    assert here["rows"][1]["nll"] == expected.nll
    assert here["rows"][1]["routing"] == "cache-prior:0.3,J=2"
    there = ok_json("quality", bundle, *options, "--device", shared_phone.serial)
    assert there == {**here, "device": shared_phone.serial}


def test_a_file_continues(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows"
    arguments = ("demo", "-f", text, "-n", 50, "--out", out)
    first = answer(*arguments, "--routing", "max-rank:8")
    assert [json.loads(line)["routing"] for line in out.read_text().splitlines()] == [
        "exact",
        "max-rank:8,J=2",
    ]
    assert isinstance(run(*arguments).exception, UsageError)
    scored = []

    def counted(source: Any, ids: Any, cache: Cache, **options: Any) -> Any:
        scored.append(cache.routing)
        if cache.routing == "max-rank:12":
            raise IoError("the disk is gone", remedy="Find it.")
        return measure_quality(source, ids, cache, **options)

    monkeypatch.setattr(sweep, "measure_quality", counted)
    more = "max-rank:8,cache-prior:0.1,max-rank:12"
    error = run(*arguments, "--resume", "--routing", more).exception
    assert isinstance(error, IoError)
    assert error.remedy == f"Find it. --out {out} --resume measures what is missing"
    again = answer(*arguments, "--resume", "--routing", "max-rank:8,cache-prior:0.1")
    assert scored == ["cache-prior:0.1", "max-rank:12"]
    assert again["rows"][:2] == first["rows"]


def test_a_plot_is_drawn(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "plot.html"
    answer("demo", "-f", text, "-n", 30, "--cache", "25%,50%", "--plot", path)
    drawn = path.read_text()
    assert "cache" in drawn
    assert "Plotly.newPlot" in drawn
    assert run("demo", "-f", text, "--plot", tmp_path / "plot.txt").exit_code == 1


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_an_unwritable_place_is_an_error_at_once(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc")):
        # Before the model is looked for.
        error = run("nothing", "--token-ids", "5,6", option, folder / "x.html").exception
        assert isinstance(error, IoError)
        assert error.file == str(folder / "x.html")
        assert error.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("source", "arguments", "setting", "kind"),
    [
        ("demo", "", None, UsageError),
        ("demo", "--token-ids 5", "--token-ids", UsageError),
        ("demo", "--token-ids 5,4096", "--token-ids", UsageError),
        ("demo", "--token-ids 5,6 --routing best", "--routing", UsageError),
        ("demo", "--token-ids 5,6 --routing exact,,exact", "--routing", UsageError),
        ("demo", "--token-ids 5,6 --eviction belady", "--eviction", UsageError),
        ("demo", "--token-ids 5,6 --cache 33", "--cache", UsageError),
        ("demo", "--token-ids 5,6 --cache 3", "--cache", BudgetError),
        ("demo", "--token-ids 5,6 --cache lots", "--cache", UsageError),
        ("demo", "--token-ids 5,6 --resume", None, UsageError),
        ("demo", "--token-ids 5,6 -c 1025", "--context", UsageError),
        ("demo", "--token-ids 5,6 --lanes 2", "--lanes", UsageError),
        ("demo", "--token-ids 5,6 --device x", "--device", UsageError),
        ("bundle", "--token-ids 5,6 --dtype float32", "--dtype", UsageError),
        ("bundle", "--token-ids 5,6 -c 1025", "--context", UsageError),
        ("nothing", "--token-ids 5,6", None, UsageError),
    ],
)
def test_invalid_arguments(
    source: str,
    arguments: str,
    setting: str | None,
    kind: type[MoeMobileError],
    demo_bundle: DemoMaker,
) -> None:
    name = demo_bundle() if source == "bundle" else source
    result = run(name, *shlex.split(arguments))
    assert isinstance(result.exception, kind), result.exception
    assert result.exception.setting == setting


def test_rows_go_to_a_file_of_their_own(text: Path, tmp_path: Path) -> None:
    picture = tmp_path / "front.html"
    link = tmp_path / "link.html"
    link.symlink_to(picture)
    for other in (picture, link):
        result = run("demo", "-f", text, "--out", other, "--plot", picture)
        assert isinstance(result.exception, UsageError)
        assert "the same file" in result.exception.cause
    result = run("demo", "-f", text, "--out", "/dev/full")
    assert isinstance(result.exception, UsageError)
    assert "not a regular file" in result.exception.cause
    assert not picture.exists()
