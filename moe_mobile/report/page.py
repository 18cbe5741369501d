# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One page that holds everything: figures, tables, the drawing library, and the rows themselves."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from moe_mobile.report import overview
from moe_mobile.report.compare import METHOD, Comparison, Refusal, compare
from moe_mobile.report.entry import Entry, make_entries
from moe_mobile.report.figure import Figure
from moe_mobile.report.forest import context, forest
from moe_mobile.report.latency import latency, latency_note
from moe_mobile.report.load import Results
from moe_mobile.report.rows import Row
from moe_mobile.report.settings import NOT_RECORDED, configurations, device_name, settings
from moe_mobile.report.timeline import memory_over_time, thermal

__all__ = ["make_page", "summary"]

MAX_DETAILED = 12
"""Rows with charts of their own; of more, a page shows the others in its tables alone."""

_ASSETS = pathlib.Path(__file__).with_name("assets")


@dataclasses.dataclass(frozen=True)
class _Section:
    """A heading with its figures, each with a name and a note. ``name`` is its anchor."""

    name: str
    title: str
    intro: str
    figures: list[tuple[str, Figure, str]]


def make_page(results: Results, title: str) -> str:
    """The page of these rows as HTML."""
    from plotly.offline import get_plotlyjs

    found, colour_by = configurations(results.rows)
    entries = make_entries(found)
    comparisons, refusals = compare(results.rows)
    sections = _sections(entries)
    versus = _comparison_figures(comparisons, entries)
    figures = {
        f"{section.name}-{index}": figure.as_dict()
        for section in [*sections, versus]
        for index, (_, figure, _) in enumerate(section.figures)
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        title=title,
        style=markupsafe.Markup((_ASSETS / "style.css").read_text("utf-8")),
        script=markupsafe.Markup((_ASSETS / "script.js").read_text("utf-8")),
        plotly=markupsafe.Markup(get_plotlyjs()),
        facts=_facts(results.rows),
        flags=_flags(results),
        sections=[section for section in sections if section.figures],
        versus=versus,
        method=METHOD,
        refusals=[_refusal(refusal, results.rows) for refusal in refusals],
        colour_by=colour_by,
        columns=_COLUMNS,
        table=[_cells(entry) for entry in entries],
        figures=_script_json(figures),
        data=_script_json([row.data for row in results.rows]),
    )


def summary(results: Results) -> dict[str, Any]:
    """What scripts want of a report: rows, ratios, refusals and notes, JSON-ready."""
    comparisons, refusals = compare(results.rows)
    return {
        "rows": [
            {
                "test": row.test,
                "settings": settings(row),
                "avg_ts": row.number("avg_ts"),
                "stddev_ts": row.number("stddev_ts"),
                "source": row.source,
            }
            for row in results.rows
        ],
        "comparisons": [
            {
                "setting": c.setting,
                "test": c.base.test,
                "from": c.values()[0],
                "to": c.values()[1],
                **dataclasses.asdict(c.ratio),
                "verdict": c.ratio.verdict,
            }
            for c in comparisons
        ],
        "refused": [
            {
                "setting": r.setting,
                "test": r.base.test,
                "from": r.values()[0],
                "to": r.values()[1],
                "reasons": r.reasons,
            }
            for r in refusals
        ],
        "notes": results.notes,
    }


def _sections(entries: Sequence[Entry]) -> list[_Section]:
    detailed = entries[:MAX_DETAILED]
    return [
        _Section(
            "throughput",
            "Throughput",
            "Bars are means, whiskers one standard deviation, dots single repetitions.",
            _named(
                ("Decode", overview.throughput(entries, "decode")),
                ("Prefill", overview.throughput(entries, "prefill")),
            ),
        ),
        _Section(
            "latency",
            "Latency per token",
            "Time of each decoded token; those with misses are marked. Lines are percentiles.",
            [
                *_named(("p50, p95 and p99", overview.percentiles(entries))),
                *_each(detailed, latency, latency_note),
            ],
        ),
        _Section(
            "parts",
            "Where the time goes",
            "Shares of a token's time; hatched is waiting for flash with nothing to compute.",
            _named(("Parts of a token", overview.shares(entries))),
        ),
        _Section(
            "cache",
            "Cache and flash",
            "Share of expert uses found in memory, and what was read from flash per token.",
            [(figure.alt.split(".")[0], figure, "") for figure in overview.cache(entries)],
        ),
        _Section(
            "memory",
            "Memory",
            "Largest values as the kernel counts them; the plan is what the engine said before.",
            [
                *_named(("Largest values", overview.memory(entries))),
                *_each(detailed, memory_over_time),
            ],
        ),
        _Section("heat", "Temperature", "With repetitions and waiting.", _each(detailed, thermal)),
        _Section(
            "energy",
            "Energy",
            "From the battery's counters; hatched is not to be relied on.",
            _named(("Joules per token", overview.energy(entries))),
        ),
    ]


def _named(*figures: tuple[str, Figure | None]) -> list[tuple[str, Figure, str]]:
    return [(name, figure, "") for name, figure in figures if figure is not None]


def _each(
    entries: Sequence[Entry], chart: Any, note: Any = lambda entry: ""
) -> list[tuple[str, Figure, str]]:
    made = [(entry, chart(entry)) for entry in entries]
    return [
        (entry.label_with_test, figure, note(entry)) for entry, figure in made if figure is not None
    ]


def _comparison_figures(comparisons: Sequence[Comparison], entries: Sequence[Entry]) -> _Section:
    by_row = {entry.row: entry for entry in entries}
    of: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        of.setdefault(comparison.setting, []).append(comparison)
    figures = [
        (f"By {setting}", forest(setting, group, by_row), "") for setting, group in of.items()
    ]
    return _Section("comparison", "Comparison", "", figures)


def _refusal(refusal: Refusal, rows: Sequence[Row]) -> dict[str, Any]:
    before, after = refusal.values()
    common = context(refusal.setting, refusal.base, rows)
    what = f"{refusal.setting}: {before} and {after}" + (f" ({common})" if common else "")
    return {"what": what, "reasons": refusal.reasons}


def _facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What all rows have in common, or the values they have."""
    times = sorted(filter(None, (row.text("test_time") for row in rows)))
    when = f"{times[0]} to {times[-1]}" if len(set(times)) > 1 else "".join(times[:1])
    return [
        ("Model", _values(rows, lambda row: row.text("model_type"))),
        ("Bundle", _values(rows, lambda row: row.text("bundle_hash"))),
        ("Device", _values(rows, device_name)),
        ("Android", _values(rows, lambda row: row.text("device", "android_version"))),
        ("moe-mobile", _values(rows, lambda row: row.text("version"))),
        ("ExecuTorch", _values(rows, lambda row: row.text("executorch_version"))),
        ("Measured", when or NOT_RECORDED),
        ("Rows", str(len(rows))),
    ]


def _values(rows: Sequence[Row], get: Any) -> str:
    found = list(dict.fromkeys(filter(None, (get(row) for row in rows))))
    return ", ".join(found[:4]) + (", ..." if len(found) > 4 else "") or NOT_RECORDED


def _flags(results: Results) -> list[str]:
    flags: dict[str, int] = {}
    for row in results.rows:
        told = row.get("flags")
        for flag in told if isinstance(told, list) else []:
            flags[str(flag)] = flags.get(str(flag), 0) + 1
    total = len(results.rows)
    counted = [
        flag if count == total else f"{flag} ({count} of {total} rows)"
        for flag, count in flags.items()
    ]
    return [*results.notes, *counted]


_COLUMNS = (
    "configuration", "test", "tokens/s", "±", "TTFT ms", "p50 ms", "p95 ms", "p99 ms", "hits %",
    "MiB/token", "wait %", "PSS MiB", "J/token", "flags",
)  # fmt: skip


def _cells(entry: Entry) -> list[str]:
    row = entry.row
    told = row.get("flags")
    return [
        entry.label,
        row.test,
        _number(row.number("avg_ts")),
        _number(row.number("stddev_ts")),
        _number(row.number("ttft_ms")),
        *(_number(row.number(f"itl_{name}_ms")) for name in ("p50", "p95", "p99")),
        _number(row.number("hit_rate"), 100),
        _number(row.number("mib_read_per_token")),
        _number(row.number("wait_share"), 100),
        _number(row.number("pss_bytes"), 1 / (1 << 20)),
        _number(row.number("joules_per_token")),
        "; ".join(map(str, told)) if isinstance(told, list) else "",
    ]


def _number(value: float | None, scale: float = 1) -> str:
    return "" if value is None else f"{value * scale:.4g}"


def _script_json(value: object) -> markupsafe.Markup:
    """JSON inside a script element: nothing in it can end that."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)
