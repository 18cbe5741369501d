# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The tables of the pages on routing say what the raw data beside them do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize(("capacity", "misses", "loads"), [(16, 9, 11), (8, 5, 7)])
def test_how_many_settings_halve_what(capacity: int, misses: int, loads: int) -> None:
    """Nine and eleven of nineteen, with half of the experts cached; and a quarter."""
    rows = [row for row in lines("routing-quality.jsonl") if row["capacity"] == capacity]
    exact = next(row for row in rows if row["routing"] == "exact")
    given = [row for row in rows if row["lossy"] and row["requested"] != "cache-prior:auto"]
    cheap = [row for row in given if row["perplexity"] <= 1.01 * exact["perplexity"]]
    assert len(given) == 19
    for count, expected in (("misses", misses), ("loads", loads)):
        assert sum(2 * row[count] <= exact[count] for row in cheap) == expected
