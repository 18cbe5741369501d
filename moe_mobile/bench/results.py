# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows from what a runner answered to each repetition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from moe_mobile.base.json_field import Json
from moe_mobile.base.routings import lossy_mark
from moe_mobile.base.statistics import percentile, sample_stddev
from moe_mobile.bench.filling import filling_flags
from moe_mobile.bench.regime import agreed_charging
from moe_mobile.bench.row import SCHEMA_VERSION, BenchTest, Row

_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Rates:
    """What the cache and the flash did for the tokens of one phase, as members of a row."""

    tokens: int
    total_ns: int
    shares: Json


def phase_rates(tokens: Iterable[Mapping[str, Any]], phase: str) -> Rates:
    """Rates over the engine's per-token entries of a phase, "prefill" or "decode".

    Shares are of the selected experts; None if none was selected. The other values are 0 without
    tokens.
    """
    parts = [token for token in tokens if token["phase"] == phase]
    count = sum(int(part.get("count", 1)) for part in parts)
    slots = sum(part["hits"] + part["misses"] + part["dropped"] for part in parts)
    total_ns = sum(int(part["total_ns"]) for part in parts)

    def share(name: str) -> float | None:
        return sum(part[name] for part in parts) / slots if slots else None

    per_token = 1 / (count * _MIB) if count else 0.0
    return Rates(
        tokens=count,
        total_ns=total_ns,
        shares={
            "hit_rate": share("hits"),
            "changed_share": share("slots_changed_by_routing"),
            "dropped_share": share("dropped"),
            "mib_read_per_token": sum(part["bytes_read"] for part in parts) * per_token,
            "wait_share": sum(part["wait_ns"] for part in parts) / total_ns if total_ns else 0.0,
        },
    )


def summarize(
    test: BenchTest,
    samples: Sequence[Mapping[str, Any]],
    runs: Sequence[Json],
    facts: Mapping[str, Any],
) -> Row:
    """The row of a test from its repetitions: `samples` of the runner's `bench` answers, and what
    was recorded around each (`runs`).

    `facts` holds the members that are not measured here (model, host, configuration). Rates of
    hits, reading and waiting are those of the decoded tokens, of the prompt if nothing was
    decoded.
    """
    times = [_sample_ns(test, sample) for sample in samples]
    tokens_done = test.n_prompt + test.n_gen
    speeds = [tokens_done * 1e9 / time for time in times]
    itl = [[int(value) for value in sample["itl_ns"]] for sample in samples]
    every_itl = [value / 1e6 for values in itl for value in values]
    first = [sample["ttft_ns"] / 1e6 for sample in samples] if test.n_prompt else []
    rates = phase_rates(
        (token for sample in samples for token in sample["tokens"]),
        "decode" if test.n_gen else "prefill",
    )
    memory = [sample["memory"] for sample in samples]
    pss = [s["pss"] for run in runs for s in run["samples"] if s["pss"] is not None]
    states = [run[name] for run in runs for name in ("entry", "exit")]
    facts = {**facts, "regime": {**facts["regime"], "charging": agreed_charging(states)}}
    return Row.of(
        **facts,
        schema_version=SCHEMA_VERSION,
        runs=list(runs),
        pss_bytes=max(pss, default=None),
        **_energy(tokens_done, runs),
        flags=_flags(facts, runs) + filling_flags(test, facts, runs),
        n_prompt=test.n_prompt,
        n_gen=test.n_gen,
        n_depth=0,
        avg_ns=round(fmean(times)),
        stddev_ns=round(sample_stddev(times)),
        avg_ts=fmean(speeds),
        stddev_ts=sample_stddev(speeds),
        samples_ns=times,
        samples_ts=speeds,
        ttft_ms=fmean(first) if first else None,
        ttft_stddev_ms=sample_stddev(first) if first else None,
        prompt_ts=_speed(test.n_prompt, [s["prompt_ns"] for s in samples]),
        gen_ts=_speed(test.n_gen, [s["gen_ns"] for s in samples]),
        itl_ns=itl,
        itl_p50_ms=percentile(every_itl, 50) if every_itl else None,
        itl_p95_ms=percentile(every_itl, 95) if every_itl else None,
        itl_p99_ms=percentile(every_itl, 99) if every_itl else None,
        **rates.shares,
        rss_anon_bytes=max(m["rss_anon"] for m in memory),
        rss_file_bytes=max(m["rss_file"] for m in memory),
        rss_bytes=max(m["rss"] for m in memory),
        peak_rss_bytes=max(m["peak_rss"] for m in memory),
        swap_bytes=max(m["swap"] for m in memory),
        major_faults=max(m["major_faults"] for m in memory),
        tokens=[list(sample["tokens"]) for sample in samples],
    )


def _energy(tokens: int, runs: Sequence[Json]) -> Json:
    """Of the repetitions whose energy is known. One that is unreliable makes the row unreliable."""
    known = [run["energy_j"] for run in runs if run["energy_j"] is not None]
    notes = [run["energy_note"] for run in runs if run["energy_note"] is not None]
    return {
        "joules_per_token": fmean(known) / tokens if known else None,
        "energy_reliable": bool(known) and not notes,
        "energy_note": notes[0] if notes else None,
    }


def _flags(facts: Mapping[str, Any], runs: Sequence[Json]) -> list[str]:
    """What a reader must know before believing a row."""
    routing, device, affinity = facts["routing"], facts["device"], facts["affinity"]
    trace = facts["regime"]["router_trace"]
    flags = []
    if routing["lossy"]:
        flags.append(lossy_mark(routing["resolved"], facts["config"]["precision"]))
    if trace is not None:
        flags.append(
            f"router logits replayed from {trace['name']} ({trace['source']}): "
            "the output means nothing"
        )
    if device["virtual"]:
        flags.append("virtual phone")
        if device["limit"] not in (None, "none"):
            flags.append(f"limit: {device['limit']}")
    for number, run in enumerate(runs, 1):
        if run["gate"] == "timed_out":
            flags.append(f"waited too long before repetition {number}")
        status = max(
            (s["thermal_status"] or 0 for s in (run["entry"], *run["samples"], run["exit"])),
        )
        if status:
            flags.append(f"throttled in repetition {number} (thermal status {status})")
        if device["kind"] == "adb" and any(
            (run[when].get("engines") or 0) > 1 for when in ("entry", "exit")
        ):
            flags.append(f"another engine ran there in repetition {number}")
        if run["cpus"] is not None:
            wish, got = set(affinity["cpus"]), set(run["cpus"])
            cores = ", ".join(map(str, sorted(got)))
            if wish - got:
                flags.append(f"repetition {number} could run on no other cores than {cores}")
            elif got - wish and affinity["policy"] != "all":  # else: cores that are offline
                flags.append(f"repetition {number} was not kept to its cores, but ran on {cores}")
    charging = {run[name]["charging"] for run in runs for name in ("entry", "exit")}
    if len(charging) > 1:
        flags.append("the charger was connected or removed")
    return flags


def _sample_ns(test: BenchTest, sample: Mapping[str, Any]) -> int:
    prompt = int(sample["prompt_ns"]) if test.n_prompt else 0
    return prompt + (int(sample["gen_ns"]) if test.n_gen else 0)


def _speed(tokens: int, times: Sequence[int]) -> float | None:
    return fmean([tokens * 1e9 / time for time in times]) if tokens else None
