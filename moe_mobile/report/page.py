# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One page that holds everything: figures, tables, the drawing library, and the rows themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from moe_mobile.base.command_line import command_line
from moe_mobile.base.text import digits
from moe_mobile.bench.row import Row
from moe_mobile.report import overview
from moe_mobile.report.compare import METHOD, Comparison, Refusal, compare
from moe_mobile.report.conclusion import conclusions
from moe_mobile.report.entry import Entry, make_entries
from moe_mobile.report.facts import facts, flags, why_no_energy
from moe_mobile.report.figure import Figure
from moe_mobile.report.forest import context, forest
from moe_mobile.report.heat import heat
from moe_mobile.report.latency import latency, latency_note
from moe_mobile.report.load import Results
from moe_mobile.report.settings import configurations, settings
from moe_mobile.report.template import Chart, Section, render, script_json
from moe_mobile.report.timeline import FEWEST_SAMPLES, memory_over_time, too_few_samples

MAX_DETAILED = 24
"""Rows with charts of their own; a page compares further rows only."""

_TOO_FEW = f"fewer than {FEWEST_SAMPLES} samples per repetition, so no chart over time"

_UNFOLDED = 3
"""Rows whose own charts are open: a page of all would be too long to find anything."""


def make_page(results: Results, title: str) -> bytes:
    """The page of these rows as HTML, in UTF-8."""
    found, colour_by = configurations(results.rows)
    entries = make_entries(found)
    comparisons, refusals = compare(results.rows)
    every = _sections(entries)
    sections = [section for section in every if section.charts]
    versus = _comparisons(comparisons, entries)
    columns, table = _table(entries)
    return render(
        "page.html",
        [*sections, versus],
        title=title,
        lead=conclusions(entries),
        facts=facts(results.rows),
        flags=flags(results),
        sections=sections,
        absent=[section.absent for section in every if not section.charts],
        versus=versus,
        refusals=_refusals(refusals, results.rows),
        colour_by=colour_by,
        columns=columns,
        table=table,
        data=script_json([row.data for row in results.rows]),
    )


def summary(results: Results) -> dict[str, Any]:
    """What scripts want of a report: rows, ratios, refusals and notes, JSON-ready."""
    comparisons, refusals = compare(results.rows)
    entries = make_entries(configurations(results.rows)[0])
    return {
        "conclusions": [sentence.text for sentence in conclusions(entries)],
        "rows": [
            {
                "test": row.test_name,
                "settings": settings(row),
                "avg_ts": row.number("avg_ts"),
                "stddev_ts": row.number("stddev_ts"),
                "source": row.source,
            }
            for row in results.rows
        ],
        "comparisons": [
            c.as_dict() | dataclasses.asdict(c.ratio) | {"verdict": c.ratio.verdict}
            for c in comparisons
        ],
        "refused": [r.as_dict() | {"reasons": r.reasons} for r in refusals],
        "notes": results.notes,
    }


def _sections(entries: Sequence[Entry]) -> list[Section]:
    detailed = entries[:MAX_DETAILED]
    rows = [entry.row for entry in entries]
    rare = sum(map(too_few_samples, entries))
    return [
        Section(
            "throughput",
            "Throughput",
            "Bars are means, whiskers one standard deviation of the repetitions, dots single "
            "repetitions.",
            _named(
                ("Decode", overview.throughput(entries, "decode")),
                ("Prefill", overview.throughput(entries, "prefill")),
                ("Time to the first token", overview.first_token(entries)),
            ),
            "No row has a speed.",
        ),
        Section(
            "latency",
            "Latency per token",
            "Time of each decoded token, over all repetitions." + _left_out(entries),
            [
                *_named(("Percentiles", overview.percentiles(entries))),
                *_each(detailed, latency, latency_note),
            ],
            "No row has times of decoded tokens.",
        ),
        Section(
            "parts",
            "Where the time goes",
            "Shares of a token's time. Waiting for flash counts where nothing is left to compute.",
            _named(("Parts of a token", overview.shares(entries))),
            f"No row has every token: `{command_line('bench', 'BUNDLE', out='FILE')}` keeps them.",
        ),
        Section(
            "cache",
            "Cache and flash",
            "Share of expert uses found in memory, and what was read from flash per token.",
            [Chart(figure.alt.split(".")[0], figure) for figure in overview.cache(entries)],
            "No row has cache hits.",
        ),
        Section(
            "memory",
            "Memory",
            "Largest values of the engine's process as the kernel counts them; the plan is what "
            "the engine said before."
            + (f" {rare} of {len(rows)} rows: {_TOO_FEW}." if rare else ""),
            [
                *_named(("Largest values", overview.memory(entries))),
                *_each(detailed, memory_over_time),
            ],
            "No row has memory figures.",
        ),
        Section(
            "heat",
            "Temperature",
            "All repetitions on one clock. The gate holds for skin and battery; the CPU may be "
            "10 °C warmer.",
            [Chart(name, figure) for name, figure in heat(entries)],
            "No row has temperatures.",
        ),
        Section(
            "energy",
            "Energy",
            "Of the whole device, from its battery's counters; hatched is not to be relied on.",
            _named(("Joules per token", overview.energy(entries))),
            f"No row has energy: {why_no_energy(rows)}.",
        ),
    ]


def _left_out(entries: Sequence[Entry]) -> str:
    if len(entries) <= MAX_DETAILED:
        return ""
    return (
        f" The first {MAX_DETAILED} of {len(entries)} rows have charts of their own, here and "
        "under Memory."
    )


def _named(*figures: tuple[str, Figure | None]) -> list[Chart]:
    return [Chart(name, figure) for name, figure in figures if figure is not None]


def _each(
    entries: Sequence[Entry],
    chart: Callable[[Entry], Figure | None],
    note: Callable[[Entry], str] = lambda entry: "",
) -> list[Chart]:
    made = [(entry, figure) for entry in entries if (figure := chart(entry)) is not None]
    return [
        Chart(entry.label_with_test, figure, note(entry), True, place >= _UNFOLDED)
        for place, (entry, figure) in enumerate(made)
    ]


def _comparisons(comparisons: Sequence[Comparison], entries: Sequence[Entry]) -> Section:
    by_row = {entry.row: entry for entry in entries}
    of: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        of.setdefault(comparison.setting, []).append(comparison)
    charts = [
        Chart(f"By {setting.replace('_', ' ')}", forest(setting, group, by_row))
        for setting, group in of.items()
    ]
    alone = "There is one row, and nothing to compare it with."
    absent = "No two rows differ in one setting alone and were measured in the same way."
    return Section(
        "comparison", "Comparison", METHOD, charts, alone if len(entries) == 1 else absent
    )


def _refusals(refusals: Sequence[Refusal], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is not compared, together if the reasons are the same."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for refusal in refusals:
        before, after = refusal.values()
        common = context(refusal.setting, refusal.base, rows)
        what = f"{refusal.setting}: {before} and {after}" + (f" ({common})" if common else "")
        grouped.setdefault(tuple(refusal.reasons), []).append(what)
    return [{"reasons": reasons, "pairs": pairs} for reasons, pairs in grouped.items()]


_COLUMNS = (
    "configuration", "test", "tokens/s", "±", "TTFT ms", "p50 ms", "p95 ms", "p99 ms", "hits %",
    "MiB/token", "wait %", "PSS MiB", "J/token", "flags",
)  # fmt: skip


_ALWAYS = ("configuration", "test", "tokens/s")


def _table(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of all rows; flags that all have are said above, and what no row has has no
    column."""
    flags = [list(dict.fromkeys(map(str, entry.row.items("flags")))) for entry in entries]
    common = set.intersection(*map(set, flags)) if len(entries) > 1 else set()
    table = [
        [*_cells(entry), "; ".join(flag for flag in own if flag not in common)]
        for entry, own in zip(entries, flags, strict=True)
    ]
    used = [
        index
        for index, name in enumerate(_COLUMNS)
        if name in _ALWAYS or any(cells[index] not in ("", "-") for cells in table)
    ]
    return [_COLUMNS[i] for i in used], [[cells[i] for i in used] for cells in table]


def _cells(entry: Entry) -> list[str]:
    row = entry.row
    return [
        entry.label,
        row.test_name,
        _number(row.number("avg_ts")),
        _number(row.number("stddev_ts"), 3),
        _number(row.number("ttft_ms")),
        *(_number(row.number(f"itl_{name}_ms")) for name in ("p50", "p95", "p99")),
        _number(_scaled(row.number("hit_rate"), 100)),
        _number(row.number("mib_read_per_token")),
        _number(_scaled(row.number("wait_share"), 100)),
        _number(_scaled(row.number("pss_bytes"), 1 / (1 << 20))),
        _number(row.number("joules_per_token")),
    ]


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _number(value: float | None, significant: int = 4) -> str:
    return "-" if value is None else digits(value, significant)
