# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares the speed of two versions: ``python -m benchmarks.before_and_after OLD NEW``.

Takes the command line of both, so that any two installations can be compared. Each round measures
before, after, after, before; a ratio is the median over rounds of after / before, so that a machine
whose speed drifts treats both alike. Above 1 is faster. A rate is the best of a few repetitions:
other work on the machine only ever makes one slower.

Measured: decoding with all experts in memory and with half of them, and a prompt of 256 tokens, on
some layers of Qwen1.5-MoE-A2.7B's and Qwen3-30B-A3B's shapes with random weights; exporting; the
simulator; and the whole of ``moe-mobile demo``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHAPES = ("Qwen1.5-MoE-A2.7B", "Qwen3-30B-A3B")
MEMORY = {
    "all experts in memory": ["--residency", "resident"],
    "half of the experts in memory": ["--cache", "50%"],
}
ROUTINGS = ("exact", "cache-prior:0.2", "max-rank:12", "cumulative:0.8")
LEAST = 0.97


@dataclass(frozen=True)
class Version:
    """An installation: its command line, ``.venv/bin/moe-mobile`` of a checkout."""

    name: str
    program: str

    def run(self, *arguments: str) -> str:
        command = [self.program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        return done.stdout

    def seconds(self, *arguments: str) -> float:
        start = time.perf_counter()
        self.run(*arguments)
        return time.perf_counter() - start


@dataclass(frozen=True)
class Case:
    """``measure`` returns rates by what they are of: more is better."""

    name: str
    measure: Callable[[Version], dict[str, float]]


def bench_case(folder: Path, shape: str, memory: str, repetitions: int) -> Case:
    def measure(version: Version) -> dict[str, float]:
        # Each version packs into its own folder: a store is not shared between versions.
        packed = folder / f"packed-{version.name}-{shape}"
        bundle = folder / shape
        output = version.run(
            *("bench", str(bundle), "--packed-dir", str(packed), "--json", *MEMORY[memory]),
            *("-p", "256", "-n", "64", "-r", str(repetitions)),
        )
        tests = {"prompt of 256 tokens": "n_prompt", "decode of 64 tokens": "n_gen"}
        return {
            f"{shape}, {memory}: {name} (tokens/s)": max(row["samples_ts"])
            for name, member in tests.items()
            for row in json.loads(output)
            if row[member]
        }

    return Case(f"{shape}, {memory}", measure)


def export_case(folder: Path) -> Case:
    name = "export of one layer of Qwen3-30B-A3B (1/s)"
    out = folder / "exported"

    def measure(version: Version) -> dict[str, float]:
        shutil.rmtree(out, ignore_errors=True)
        options = ["--random-weights", SHAPES[1], "--layers", "1", "--vocab-size", "4096"]
        return {name: 1 / version.seconds("export", *options, str(out))}

    return Case(name, measure)


def simulate_case(folder: Path) -> Case:
    name = "simulate, four routings at three sizes (1/s)"

    def measure(version: Version) -> dict[str, float]:
        routing = [word for name in ROUTINGS for word in ("--routing", name)]
        return {name: 1 / version.seconds("simulate", str(folder / "trace.npz"), *routing)}

    return Case(name, measure)


def demo_case(folder: Path) -> Case:
    name = "moe-mobile demo (1/s)"

    def measure(version: Version) -> dict[str, float]:
        out = folder / f"demo-{version.name}"
        shutil.rmtree(out, ignore_errors=True)
        return {name: 1 / version.seconds("demo", "--dir", str(out))}

    return Case(name, measure)


def prepare_inputs(before: Version, folder: Path, layers: int) -> None:
    """Bundles and a trace, made once by the version before, which both read."""
    for shape in SHAPES:
        if not (folder / shape).exists():
            options = ["--random-weights", shape, "--layers", str(layers), "--vocab-size", "8192"]
            before.run("export", *options, str(folder / shape))
    if not (folder / "trace.npz").exists():
        from moe_mobile.cli import synthetic

        options = ["--layers", "16", "--tokens", "2000", "-o", str(folder / "trace.npz")]
        subprocess.run([sys.executable, "-m", synthetic.__name__, SHAPES[1], *options], check=True)


def main() -> int:
    """Measures, prints a table, writes the raw data; 1 if a ratio is below the limit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.before_and_after",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", help="the moe-mobile program of the version before")
    parser.add_argument("after", help="that of the version after")
    parser.add_argument("--dir", type=Path, default=Path("build/before-and-after"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=5, help="of each test; the best counts")
    parser.add_argument("--layers", type=int, default=4, help="of the two shapes")
    parser.add_argument("--only", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    arguments = parser.parse_args()
    folder = arguments.dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    before = Version("before", arguments.before)
    after = Version("after", arguments.after)
    prepare_inputs(before, folder, arguments.layers)
    cases = [bench_case(folder, s, m, arguments.repetitions) for s in SHAPES for m in MEMORY]
    cases += [export_case(folder), simulate_case(folder), demo_case(folder)]
    results: list[dict[str, Any]] = []
    for case in cases:
        if arguments.only and arguments.only not in case.name:
            continue
        for version in (before, after):  # packs, fills the page cache, warms up; not counted
            case.measure(version)
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(arguments.rounds):
            for version in (before, after, after, before):
                for name, rate in case.measure(version).items():
                    found.setdefault(name, {"before": [], "after": []})[version.name].append(rate)
        for name, rates in found.items():
            ratios = [new / old for new, old in zip(rates["after"], rates["before"], strict=True)]
            ratio = statistics.median(ratios)
            results.append({"case": name, "ratio": ratio, **rates})
            medians = [statistics.median(rates[version]) for version in ("before", "after")]
            span = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(
                f"{name:74} {medians[0]:9.3f} {medians[1]:9.3f}  {ratio:.3f} ({span})", flush=True
            )
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    slower = [result["case"] for result in results if result["ratio"] < LEAST]
    for name in slower:
        print(f"below {LEAST}: {name}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
