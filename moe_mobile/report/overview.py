# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Charts that show all rows next to each other."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from moe_mobile.base.text import digits
from moe_mobile.bench.row import PARTS, finite
from moe_mobile.report.entry import Entry
from moe_mobile.report.figure import Bar, Figure, Key, Segment, bars, listing, plain, short

_MIB = 1 << 20

_PERCENTILE_MARKS = (("p50 (median)", "dot"), ("p95", "ring"), ("p99", "diamond"))


def throughput(entries: Sequence[Entry], phase: str) -> Figure | None:
    """Tokens per second of a phase with one standard deviation and every repetition."""
    shown = []
    for entry in entries:
        speed = entry.row.speed(phase) if phase in entry.row.phases else None
        if speed is None:
            continue
        alone = entry.row.phases == [phase]
        deviation = entry.row.number("stddev_ts") if alone else None
        dots = entry.row.speeds if alone else []
        if len(dots) < 2:
            deviation, dots = None, []
        spread = f" ± {digits(deviation, 3)}" if deviation is not None else ""
        name = f"mean of {len(dots)} repetitions" if dots else "spread not recorded"
        shown.append(
            Bar(
                entry.label_with_test,
                f"{digits(speed)}{spread}",
                [Segment(speed, entry.colour, f"{digits(speed)}{spread} tokens/s, {name}")],
                deviation,
                dots,
            )
        )
    what = {"prefill": "Prefill", "decode": "Decode"}[phase]
    return _bars(
        f"throughput-{phase}", f"{what} throughput in tokens per second", "tokens/s", shown
    )


def first_token(entries: Sequence[Entry]) -> Figure | None:
    """Time from the prompt's start to its logits, with one standard deviation."""
    shown = []
    for entry, time in _with(entries, "ttft_ms"):
        several = len(entry.row.records) > 1 or len(entry.row.repetitions) > 1
        deviation = entry.row.number("ttft_stddev_ms") if several else None
        spread = f" ± {digits(deviation, 3)}" if deviation is not None else ""
        text = f"{digits(time)}{spread} ms"
        shown.append(
            Bar(entry.label_with_test, text, [Segment(time, entry.colour, text)], deviation)
        )
    return _bars("first-token", "Time to the first token", "ms", shown)


def percentiles(entries: Sequence[Entry]) -> Figure | None:
    """p50, p95 and p99 of the decoded tokens' latency, each row a line between them."""
    points: list[tuple[Entry, list[float]]] = []
    for entry in entries:
        values = [entry.row.number(f"itl_{name}_ms") for name in ("p50", "p95", "p99")]
        known = [value for value in values if value is not None]
        if len(known) == 3:
            points.append((entry, known))
    if not points:
        return None
    labels = [
        (entry.label_with_test, " · ".join(digits(value, 3) for value in values))
        for entry, values in points
    ]
    layout, centres = listing(labels, "ms per token")
    layout["xaxis"]["rangemode"] = "tozero"
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [short(value) for value in values],
            "y": [y] * 3,
            "line": {"color": entry.colour, "width": 2},
            "marker": {
                "color": [entry.colour, "@paper", "@paper"],
                "size": [11, 9, 9],
                "symbol": ["circle", "circle", "diamond"],
                "line": {"color": entry.colour, "width": 2},
            },
            "hovertext": [
                f"<b>{plain(entry.label_with_test)}</b><br>{name}: {digits(value)} ms"
                for name, value in zip(("p50", "p95", "p99"), values, strict=True)
            ],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for (entry, values), y in zip(points, centres, strict=True)
    ]
    words = "; ".join(f"{label}: {value}" for label, value in labels[:12])
    alt = f"50th, 95th and 99th percentile of the decoded tokens' latency. {words}"
    keys = [Key("@muted", name, shape) for name, shape in _PERCENTILE_MARKS]
    return Figure("percentiles", alt, data, layout, keys)


def shares(entries: Sequence[Entry]) -> Figure | None:
    """Where the time of a decoded token goes, as shares; of a prompt's if nothing is decoded."""
    shown = []
    for entry in entries:
        parts = entry.parts
        if not parts:
            continue
        total = sum(parts.values())
        shown.append(
            Bar(
                entry.label_with_test,
                f"{digits(total, 3)} ms",
                [
                    Segment(
                        100 * parts[name] / total,
                        f"@part-{name}",
                        f"{title}: {digits(parts[name], 3)} ms, {100 * parts[name] / total:.1f} %",
                        hatched=name == "wait",
                    )
                    for name, title in PARTS.items()
                ],
            )
        )
    alt = "Share of each part in the time of a token"
    keys = [
        Key(f"@part-{name}", title, "hatched" if name == "wait" else "square")
        for name, title in PARTS.items()
    ]
    return _bars("shares", alt, "% of a token's time", shown, limit=100, keys=keys)


def cache(entries: Sequence[Entry]) -> list[Figure]:
    """Hit rates, and MiB read per token."""
    rates, reads = [], []
    for entry, rate in _with(entries, "hit_rate"):
        text = f"{100 * rate:.1f} %"
        segment = Segment(100 * rate, entry.colour, f"{text} of expert uses found in memory")
        rates.append(Bar(entry.label_with_test, text, [segment]))
    for entry, read in _with(entries, "mib_read_per_token"):
        text = f"{digits(read, 3)} MiB"
        segment = Segment(read, entry.colour, f"{text} read")
        reads.append(Bar(entry.label_with_test, text, [segment]))
    figures = [
        _bars("hits", "Hit rate of the expert cache", "% of expert uses", rates, limit=100),
        _bars("reads", "MiB read from flash per token", "MiB per token", reads),
    ]
    return [figure for figure in figures if figure is not None]


_MEMORY_KEYS = (
    ("RssAnon", "RssAnon: slots, KV cache, heap", "square"),
    ("RssFile", "RssFile: mapped files", "square"),
    ("swap", "swapped out", "hatched"),
)


def memory(entries: Sequence[Entry]) -> Figure | None:
    """The largest RssAnon, RssFile and swap of each row, and what the plan allowed."""
    shown = []
    for entry in entries:
        names = (
            ("rss_anon_bytes", "RssAnon"),
            ("rss_file_bytes", "RssFile"),
            ("swap_bytes", "swap"),
        )
        sizes = [(title, entry.row.number(name)) for name, title in names]
        known = [(title, value / _MIB) for title, value in sizes if value]
        if not known:
            continue
        total = sum(value for _, value in known)
        plan = entry.row.number("plan", "total_bytes")
        pss = entry.row.number("pss_bytes")
        title = f"largest PSS {pss / _MIB:,.0f} MiB" if pss else ""
        segments = [
            Segment(value, f"@mem-{name}", f"{name} {digits(value)} MiB", hatched=name == "swap")
            for name, value in known
        ]
        shown.append(
            Bar(
                entry.label_with_test,
                f"{digits(total)} MiB",
                segments,
                mark=plan / _MIB if plan else None,
                title=title,
            )
        )
    used = {segment.name.split()[0] for bar in shown for segment in bar.segments}
    keys = [Key(f"@mem-{n}", title, shape) for n, title, shape in _MEMORY_KEYS if n in used]
    if any(bar.mark is not None for bar in shown):
        keys.append(Key("@ink", "what the engine planned", "mark"))
    alt = "Largest resident memory of each row, and the plan's total"
    return _bars("memory", alt, "MiB", shown, keys=keys)


def energy(entries: Sequence[Entry]) -> Figure | None:
    """Joules per token, hatched if the battery counters cannot be relied on."""
    shown = []
    for entry, joules in _with(entries, "joules_per_token"):
        reliable = entry.row.get("energy_reliable") is True
        note = "" if reliable else " (unreliable)"
        each = [
            value for run in entry.row.records if (value := finite(run.get("energy_j"))) is not None
        ]
        title = f"mean of {digits(fmean(each), 3)} J per repetition" if each else ""
        segment = Segment(
            joules, entry.colour, f"{digits(joules, 3)} J{note}", hatched=not reliable
        )
        shown.append(
            Bar(entry.label_with_test, f"{digits(joules, 3)} J{note}", [segment], title=title)
        )
    return _bars("energy", "Energy per token in joules", "J per token", shown)


def _with(entries: Sequence[Entry], member: str) -> list[tuple[Entry, float]]:
    """The entries whose row has a number, and the number."""
    return [(one, value) for one in entries if (value := one.row.number(member)) is not None]


def _bars(
    name: str,
    alt: str,
    unit: str,
    shown: Sequence[Bar],
    *,
    limit: float = 0,
    keys: Sequence[Key] = (),
) -> Figure | None:
    """The bars, described in words with the first values; None without bars."""
    if not shown:
        return None
    words = "; ".join(f"{bar.label}: {bar.value}" for bar in shown[:12])
    return bars(name, f"{alt}. {words}", unit, shown, limit=limit, keys=keys)
