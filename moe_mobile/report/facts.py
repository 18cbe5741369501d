# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader needs first: what was measured and how, and what speaks against the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moe_mobile.base.text import digits
from moe_mobile.bench.filling import FULL
from moe_mobile.bench.row import Row
from moe_mobile.report.load import Results
from moe_mobile.report.settings import NOT_RECORDED, device_name, settings

_ELSEWHERE = {"device", "model", "build"}
"""Settings that have a line of their own."""

_FLAGS = {
    "virtual phone": "its cores and flash are the computer's it runs on, its temperatures and "
    "battery are made up: nothing here is a phone's speed",
    "limit: hard": "the kernel held the virtual phone to its memory",
    "limit: soft": "a watchdog held the virtual phone to its memory, so it may have used more for "
    "moments",
    "limit: none": "nothing held the virtual phone to a phone's memory",
}


def facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What all rows have in common, or the values they have."""
    times = sorted(filter(None, (row.text("test_time") for row in rows)))
    when = ""
    if times:
        first, last = (f"{time[:10]} {time[11:19]}" for time in (times[0], times[-1]))
        same_day = first[:10] == last[:10]
        when = first if first == last else f"{first} to {last[11:] if same_day else last}"
    return [
        ("Model", _values(rows, lambda row: row.text("model_type"))),
        ("Device", _values(rows, device_name)),
        ("Android", _values(rows, lambda row: row.text("device", "android_version"))),
        ("moe-mobile", _values(rows, _build)),
        ("ExecuTorch", _values(rows, lambda row: row.text("executorch_version"))),
        ("Rows, repetitions", f"{len(rows)}, {_values(rows, _repetitions)}"),
        ("Measured (UTC)", when or NOT_RECORDED),
        ("The same in all rows", _common(rows)),
        ("How", _values(rows, _regime)),
        ("Bundle", _values(rows, lambda row: row.text("bundle_hash"))),
    ]


def flags(results: Results) -> list[str]:
    """What was noted on reading, and the rows' flags, each with how many rows have it."""
    counts: dict[str, int] = {}
    for row in results.rows:
        for flag in dict.fromkeys(map(str, row.items("flags"))):
            counts[flag] = counts.get(flag, 0) + 1
    total = len(results.rows)
    counted = [
        _explain(flag) if count == total else f"{_explain(flag)} ({count} of {total} rows)"
        for flag, count in counts.items()
    ]
    return [*results.notes, *counted]


def why_no_energy(rows: Sequence[Row]) -> str:
    """The reasons that rows give for having no energy."""
    reasons = dict.fromkeys(filter(None, (row.text("energy_note") for row in rows)))
    return "; ".join(reasons) or "no battery was read"


def _values(rows: Sequence[Row], get: Callable[[Row], str | None]) -> str:
    found = list(dict.fromkeys(filter(None, (get(row) for row in rows))))
    return ", or ".join(found[:4]) + (", or others" if len(found) > 4 else "") or NOT_RECORDED


def _build(row: Row) -> str | None:
    version, commit = row.text("version"), row.text("build_commit")
    return f"{version} ({commit})" if version and commit else version


def _repetitions(row: Row) -> str | None:
    samples = row.get("samples_ts")
    return str(len(samples)) if isinstance(samples, list) else None


def _common(rows: Sequence[Row]) -> str:
    """Settings in which no rows differ; what is not recorded is not worth a word."""
    chosen = [settings(row) for row in rows]
    alike = {
        name: value
        for name, value in chosen[0].items()
        if name not in _ELSEWHERE
        and value != NOT_RECORDED
        and all(values.get(name) == value for values in chosen)
    }
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in alike.items()) or "-"


def _warmup(runs: object) -> str:
    if runs == FULL:
        return "after a warm-up that filled the cache"
    # Version 1 says yes or no.
    if not isinstance(runs, int) or runs <= 0:
        return "no warm-up"
    return "after a warm-up" if runs == 1 else f"after {runs} runs of warm-up"


def _regime(row: Row) -> str | None:
    if not isinstance(row.get("regime"), dict):
        return None
    limit, timeout = (row.number("regime", "gate", name) for name in ("limit_c", "timeout_s"))
    parts = [
        "repetitions in turns" if row.get("regime", "order") == "interleaved" else "row by row",
        _warmup(row.get("regime", "warmup")),
        "no thermal gate"
        if limit is None
        else f"gate {digits(limit)} °C for at most {digits(timeout or 0)} s",
    ]
    charging = row.get("regime", "charging")
    if isinstance(charging, bool):
        parts.append("charging" if charging else "on battery")
    seed = row.number("regime", "seed")
    if seed is not None:
        parts.append(f"seed {seed:.0f}")
    return ", ".join(parts)


def _explain(flag: str) -> str:
    """A row's flag, with its meaning if the flag does not say it."""
    meaning = _FLAGS.get(flag)
    return flag if meaning is None else f"{flag}: {meaning}"
