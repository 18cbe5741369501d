# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a lower precision of the experts costs, scored, tuned and used."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_mobile.errors import UsageError
from moe_mobile.quality.engine import EngineSource
from moe_mobile.quality.score import Cache, Quality, measure_quality
from moe_mobile.quality.transformers_source import TransformersSource
from moe_mobile.tune.settings_file import read_settings
from tests.bundles import BundleMaker, CheckpointMaker, OnceMaker
from tests.cli.program import failed, ok, ok_json
from tests.engine.test_variants import LAYERS, NAME, export_two
from tests.tiny import EXPERTS, TOP_K, tiny_prompt

IDS = tiny_prompt(120)
TEXT = ("--token-ids", ",".join(map(str, IDS)), "-t", 1)
PRECISIONS = ("full", "low", "ranks:1")


@pytest.fixture(scope="module")
def two(made_once: OnceMaker, checkpoint: CheckpointMaker) -> Path:
    """Experts in 8da8w and in 8da4w."""
    return made_once("two-precisions", lambda out: export_two(checkpoint(NAME), out))


def scored(bundle: Path, precision: str, routing: str = "exact") -> Quality:
    source = EngineSource(str(bundle), settings=(("threads", 1),))
    return measure_quality(source, IDS, Cache(routing, 4, precision=precision))


def test_the_command_scores_every_precision(two: Path) -> None:
    asked = ("quality", two, *TEXT, "--routing", "cache-prior:auto")
    chosen = [word for precision in PRECISIONS for word in ("--precision", precision)]
    found = ok_json(*asked, *chosen)["rows"]
    pairs = [(row["expert_precision"], row["requested"]) for row in found]
    routings = ("exact", "cache-prior:auto")
    assert pairs == [(precision, routing) for precision in PRECISIONS for routing in routings]
    assert [row["lossy"] for row in found] == [False, *[True] * 5]
    rows = {row["expert_precision"]: row for row in found if row["requested"] == "exact"}
    # About as many loads, of fewer bytes.
    full, low, mixed = (rows[precision] for precision in PRECISIONS)
    assert low["loads"] == pytest.approx(full["loads"], rel=0.1)
    assert full["bytes_read"] > low["bytes_read"] > full["bytes_read"] / 3
    assert mixed["bytes_read"] / mixed["loads"] < full["bytes_read"] / full["loads"]
    assert full["change"] == 0
    assert len({row["nll"] for row in rows.values()}) == 3
    for precision, row in rows.items():
        assert row["nll"] == scored(two, precision).nll
    # Full precision is scored without being asked for, and a table names the others.
    text = ok(*asked[:-1], "exact", "--precision", "low,ranks:1")
    lines = [line.split("  ")[0] for line in text.splitlines()[4:]]
    assert lines == ["exact", "exact, precision low", "exact, precision ranks:1"]
    assert "bytes/token" in text


def test_a_mixed_cache_is_counted_by_the_engine(two: Path) -> None:
    row = scored(two, "ranks:1", "cache-prior:0.3")
    assert row.slots == len(IDS) * LAYERS * TOP_K
    assert 0 < row.loads < row.slots
    assert row.label == f"{row.routing}, precision ranks:1"
    assert row.marked.endswith("ranks:1 (lossy)")


def test_precisions_that_are_not_there_are_refused(
    two: Path, bundle: BundleMaker, checkpoint: CheckpointMaker
) -> None:
    alone = bundle("qwen3_moe")
    for source, precision, cause in (
        (alone, "low", "holds its experts in 8da4w only"),
        (two, f"ranks:{TOP_K}", f"a token has {TOP_K} experts"),
        (two, "half", 'invalid precision "half"'),
    ):
        for command in ("quality", "tune"):
            error = failed(2, command, source, *TEXT, "--precision", precision)
            assert error["setting"] == "--precision"
            assert cause in error["cause"]
            assert error["remedy"]
    folder = checkpoint("olmoe")
    with pytest.raises(UsageError, match="holds its experts in float32 only"):
        measure_quality(TransformersSource(str(folder)), IDS, Cache("exact", 4, precision="low"))
    error = failed(2, "quality", folder, *TEXT[:2], "--precision", "low")
    assert (error["setting"], "bundle" in error["cause"]) == ("--precision", True)


def test_tune_finds_a_precision_and_its_settings_are_used(two: Path, tmp_path: Path) -> None:
    file, page = tmp_path / "settings.json", tmp_path / "page.html"
    ids = ",".join(map(str, tiny_prompt(1400)))
    found = ok_json(
        "tune", two, "--token-ids", ids, "-c", 200, "--routing", "exact", "--precision", "low",
        "--quality", "+90%", "--save-settings", file, "--report", page,
    )  # fmt: skip
    assert [row["chosen"] for row in found["rows"]] == [False, True]
    (choice,) = read_settings(file).choices
    assert (choice.settings.routing, choice.settings.precision) == ("exact", "low")
    assert choice.lossy
    assert "exact, precision low (lossy)" in page.read_text()
    used = ("generate", two, "--token-ids", "5,6,7", "-n", 2, "--settings", file)
    assert ok_json(*used)["settings"]["precision"] == "low"
    assert ok_json(*used, "--precision", "full")["settings"]["precision"] == "full"
    (row,) = ok_json("bench", two, "-p", 0, "-n", 2, "-r", 1, "--settings", file)
    assert row["config"]["precision"] == "low"
    assert found["rows"][0]["capacity"] * LAYERS == EXPERTS // 2 * LAYERS
