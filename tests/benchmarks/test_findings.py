# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The tables of the pages on routing agree with the raw data next to them."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import agreement
from moe_mobile.quality.score import Quality

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATA = DOCS / "findings" / "data"


def table_rows(page: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row of every table, with the heading above it; cells by the column's name."""
    heading, header = "", list[str]()
    for line in (DOCS / page).read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not header:
            header = cells
            assert len(set(header)) == len(header)
        elif set(line) - set("|-:"):
            yield heading, dict(zip(header, cells, strict=True))


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


QUALITY = lines("routing-quality.jsonl") + lines("routing-quality-others.jsonl")


@pytest.mark.parametrize("page", ["findings/routing-quality.md", "routing/drop-cold.md"])
def test_the_tables_of_quality(page: str) -> None:
    seen = 0
    for heading, cells in table_rows(page):
        source = "transformers" if "transformers" in heading else "engine"
        pool = "global" if "One pool" in heading else "layer"
        routing = cells["routing"].removesuffix(" (auto)")
        rows = [
            row
            for row in QUALITY
            if (row["source"], row["pool"]) == (source, pool)
            and f"{100 * row['capacity'] // row['experts']} %" == cells["cached"]
        ]
        row = next(row for row in rows if row["routing"] == routing)
        exact = next(row for row in rows if row["routing"] == "exact")
        places = row["tokens"] * row["layers"]
        share = row["loads"] / exact["loads"]
        shown = f"{share:.2f}" if "lossy" not in cells else f"{100 * share:.0f} %"
        assert row["loads"] == row["misses"] - row["dropped"]
        assert cells["hits"] == f"{100 * row['hits'] / (places * row['top_k']):.1f} %"
        assert cells["misses per token-layer"] == f"{row['misses'] / places:.3f}"
        assert cells["loads per token-layer"] == f"{row['loads'] / places:.3f}"
        assert cells["loads of exact's"] in (shown, "" if row is exact else shown)
        assert cells["changed"] == f"{100 * row['changed'] / (places * row['top_k']):.1f} %"
        assert cells["dropped"] == f"{100 * row['dropped'] / (places * row['top_k']):.1f} %"
        assert cells["perplexity"] == f"{row['perplexity']:.4f}"
        ratio = row["perplexity"] / exact["perplexity"] - 1
        change = "" if row is exact else f"{100 * ratio:+.2f}"
        assert re.sub(" ±.*", "", cells["change"]) == change
        seen += 1
    assert seen >= 10


def test_the_figures_that_readers_see_first() -> None:
    rows = [row for row in lines("routing-quality.jsonl") if row["capacity"] == 16]
    exact, prior = (
        next(row for row in rows if row["routing"] == routing)
        for routing in ("exact", "cache-prior:0.2,J=2")
    )
    share = f"{100 * prior['loads'] / exact['loads']:.0f} %"
    one, other = Quality.from_dict(prior), Quality.from_dict(exact)
    change, error = one.change_from(other), one.change_error(other)
    assert error is not None
    costs = f"{100 * change:.2f} ± {100 * error:.2f} %"
    page = " ".join((DOCS / "findings/routing-quality.md").read_text().split())
    assert f"`cache-prior:0.2` misses, and reads, {share} of what exact routing" in page
    assert f"and costs {costs} of perplexity" in page
    assert f"Exact routing gives {exact['perplexity']:.4f} here" in page
    readme = " ".join((DOCS.parent / "README.md").read_text().split())
    assert f"reads {share} of what an LRU cache with exact routing reads" in readme
    assert f"perplexity changes by +{costs}" in readme


@pytest.mark.parametrize(("capacity", "misses", "loads"), [(16, 9, 11), (8, 5, 7)])
def test_number_of_settings_that_halve_misses_or_loads(
    capacity: int, misses: int, loads: int
) -> None:
    """Nine and eleven of nineteen, with half of the experts cached; and a quarter."""
    rows = [row for row in lines("routing-quality.jsonl") if row["capacity"] == capacity]
    exact = next(row for row in rows if row["routing"] == "exact")
    given = [row for row in rows if row["lossy"] and row["requested"] != "cache-prior:auto"]
    cheap = [row for row in given if row["perplexity"] <= 1.01 * exact["perplexity"]]
    assert len(given) == 19
    for count, expected in (("misses", misses), ("loads", loads)):
        assert sum(2 * row[count] <= exact[count] for row in cheap) == expected


def replays(name: str) -> list[dict[str, str]]:
    """What `simulate --csv` wrote."""
    with open(DATA / name, newline="") as file:
        return list(csv.DictReader(file))


def percent(share: float | str) -> str:
    return f"{100 * float(share):.1f} %"


def loads(row: dict[str, str]) -> str:
    return f"{float(row['loads_per_token_layer']):.3f}"


def test_the_replays_of_the_demo_model() -> None:
    rows = {
        (f"{100 * float(row['capacity_share']):.0f}%", row["routing"], row["eviction"]): row
        for row in replays("routing-demo.csv")
    }
    table = [cells for _, cells in table_rows("findings/routing-demo.md") if "lossy" in cells]
    assert len(table) == len(rows) == 30
    for cells in table:
        routing = cells["routing"].removesuffix(" (auto)")
        eviction = "belady" if routing.endswith(", Belady") else "lru"
        row = rows[cells["cached"], routing.removesuffix(", Belady"), eviction]
        slots = int(row["hits"]) + int(row["misses"])
        assert int(row["loads"]) == int(row["misses"]) - int(row["dropped"])
        assert cells == {
            "cached": cells["cached"],
            "routing": cells["routing"],
            "lossy": "lossy" if row["lossy"] == "True" else "",
            "hits": percent(row["hit_rate"]),
            "loads per token-layer": loads(row),
            "changed": percent(row["changed_share"]),
            "dropped": percent(int(row["dropped"]) / slots),
            "lifetime": f"{float(row['mean_lifetime_tokens']):.1f}",
            "KiB per token": f"{float(row['bytes_per_token']) / 1024:.1f}",
        }


def test_shares_of_the_reads_of_lru() -> None:
    """What the page's sentences say of its table."""
    rows = replays("routing-demo.csv")
    found: dict[str, list[str]] = {"belady": [], "cache-prior:0.2,J=2": []}
    for size in ("8", "16", "24"):
        here = [row for row in rows if row["capacity"] == size]
        exact = next(row for row in here if (row["routing"], row["eviction"]) == ("exact", "lru"))
        for name, shares in found.items():
            row = next(row for row in here if name in (row["routing"], row["eviction"]))
            shares.append(f"{100 * int(row['loads']) / int(exact['loads']):.0f}%")
    page = (DOCS / "findings/routing-demo.md").read_text()
    for shares in found.values():
        assert "{}, {} and {} of".format(*shares) in page


def test_one_pool_for_all_layers() -> None:
    rows = {(row["capacity"], row["eviction"]): row for row in replays("routing-demo-global.csv")}
    table = [
        cells
        for _, cells in table_rows("findings/routing-demo.md")
        if "experts per layer" in cells
    ]  # fmt: skip
    assert 2 * len(table) == len(rows) == 10
    counts = json.loads((DATA / "routing-demo-cliff.json").read_text())
    page = (DOCS / "findings/routing-demo.md").read_text().splitlines()
    for cells in table:
        lru, belady = (rows[cells["experts per layer"], kind] for kind in ("lru", "belady"))
        assert list(cells.values())[1:] == [
            str(6 * int(lru["capacity"])),
            percent(lru["hit_rate"]),
            loads(lru),
            percent(belady["hit_rate"]),
            loads(belady),
        ]
    hits = [f"{hits:,}" for hits in counts["python_lru_hits"].values()]
    hits[0] += f" of {counts['slots']:,}"
    assert "| hits | " + " | ".join(hits) + " |" in page
    for capacity, found in counts["simulator_hits"].items():
        assert found == counts["python_lru_hits"][capacity]


def test_evictions() -> None:
    rows = {
        (f"{100 * float(row['capacity_share']):.0f} %", row["eviction"], row["requested"]): row
        for row in replays("eviction.csv")
    }
    table = [cells for _, cells in table_rows("routing/eviction.md") if "cached" in cells]
    assert 2 * len(table) == len(rows) == 24
    for cells in table:
        exact, prior = (
            rows[cells["cached"], cells["eviction"], routing]
            for routing in ("exact", "cache-prior:0.2")
        )
        assert list(cells.values())[2:] == [
            loads(exact), f"{float(exact['mean_lifetime_tokens']):.1f}", loads(prior),
        ]  # fmt: skip


def test_synthetic_traces() -> None:
    table = [cells for _, cells in table_rows("routing/synthetic-traces.md") if "cached" in cells]
    files = {"Qwen1.5-MoE-A2.7B": "synthetic-qwen15.csv", "Qwen3-30B-A3B": "synthetic-qwen3.csv"}
    model = ""
    for cells in table:
        model = cells["model"] or model
        share = f"{int(cells['cached'].removesuffix(' %')) / 100:g}"
        lru, prior, belady = (
            row for row in replays(files[model]) if f"{float(row['capacity_share']):g}" == share
        )
        assert (lru["eviction"], prior["requested"]) == ("lru", "cache-prior:auto")
        assert belady["eviction"] == "belady"
        assert all(row["misses"] == row["loads"] for row in (lru, prior, belady))
        strength = prior["routing"].removeprefix("cache-prior:").removesuffix(",J=2")
        assert list(cells.values())[2:] == [
            loads(lru),
            f"{loads(prior)} ({strength})",
            percent(prior["changed_share"]),
            loads(belady),
        ]
    assert len(table) == 6


def test_what_the_synthetic_traces_were_fitted_to() -> None:
    printed = (DATA / "synthetic-fit.txt").read_text()
    persistences = re.findall(r"^(\S+): persistence ([0-9.]+)", printed, re.MULTILINE)
    misses = re.findall(r"misses ([0-9.]+)%, published ([0-9.]+)%", printed)
    tables = [cells for _, cells in table_rows("routing/synthetic-traces.md")]
    fitted = [cells for cells in tables if "s" in cells]
    others = [cells for cells in tables if "synthetic" in cells]
    assert [(c["model"], float(c["s"])) for c in fitted] == [
        (name, float(value)) for name, value in persistences
    ]
    assert [c["misses"] for c in fitted] == [f"{misses[0][0]} %", f"{misses[1][0]} %"]
    told = sorted((f"{got} %", f"{published} %") for got, published in misses[2:])
    assert sorted((c["synthetic"], c["misses published"]) for c in others) == told


def test_the_speed_of_exporting() -> None:
    names = {"before": "before", "after": "now"}
    measured = [row for row in lines("export-speed.jsonl") if "version" in row]
    table = [cells for _, cells in table_rows("findings/full-size.md") if "version" in cells]
    assert len(table) == 4
    for cells in table:
        key = (int(cells["busy processes"]), cells["version"])
        own = [row for row in measured if (row["load"], names[row["version"]]) == key]
        cpu = statistics.median(row["user"] + row["system"] for row in own)
        assert cells["experts/s"] == f"{statistics.median(1 / row['seconds'] for row in own):.1f}"
        assert cells["CPU s per expert"] == f"{cpu:.3f}"
        assert cells["experts per CPU s"] == f"{1 / cpu:.1f}"
        assert (cpu <= 1 / 12) == (cells["version"] == "now")


@pytest.mark.parametrize(
    ("column", "name"),
    [("step of the whole model", "opening-whole.json"), ("step", "opening.json")],
)
def test_what_preparing_and_opening_take(column: str, name: str) -> None:
    medians = json.loads((DATA / name).read_text())["medians"]
    rows = (cells for _, cells in table_rows("findings/full-size.md"))
    table = [cells for cells in rows if column in cells and "before: MiB" in cells]
    cache = ""
    for cells in table:
        step = re.sub(r"^open, cache (\d+) %.*", r"open \1%", cells[column])
        step = re.sub("^then (a )?", "", step)
        cache = step.removeprefix("open ") if step.startswith("open") else cache
        step = step if step == "prepare" or step.startswith("open") else f"{step} {cache}"
        for version in ("before", "now"):
            cost = medians[version][step]
            told = [cells[f"{version}: {what}"] for what in ("s", "CPU s", "MiB")]
            assert told == [f"{cost['wall']:.1f}", f"{cost['cpu']:.1f}", f"{cost['peak']:.0f}"], (
                step
            )
    assert len(table) >= 6


def test_the_table_of_arm64() -> None:
    record = json.loads((DATA / "arm64.json").read_text())
    assert {name: one["abi"] for name, one in record["machines"].items()} == {
        "here": "x86_64",
        "device": "arm64-v8a",
    }
    shown = [
        list(cells.values())
        for heading, cells in table_rows("findings/phones.md")
        if heading.startswith("arm64")
    ]
    assert shown == [agreement.summary(row) for row in record["rows"]]
