# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast `export` makes experts, alone and where other processes have the cores.

python -m benchmarks.export_speed
python -m benchmarks.export_speed --before /path/to/other/.venv/bin/python

Exports a layer of a preset with random weights, and measures its experts: 128 of Qwen3-30B-A3B's,
from reading to the synced shard. What is lowered is kept from one export to the next. With
``--before``, the Python of another installation, each round measures before, after, after, before;
a ratio is the median over rounds of before / after, so that a machine whose speed drifts treats
both alike.

CPU seconds are those of the exporting process, in user and in system mode.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PRESET, EXPERTS = "Qwen3-30B-A3B", 128
GOAL_CPU_SECONDS = 1 / 12
"""Of an expert, whatever runs next to it."""

# Runs in either installation: what it uses of the package both must have.
_EXPORT = """
import json, os, pathlib, sys, time
from moe_mobile.export import RandomWeights, export_bundle, lowering

preset, out, kept = sys.argv[1:]
marks = {}
lower = lowering.lower

def mark(name):
    if name not in marks:
        used = os.times()
        marks[name] = (time.monotonic(), used.user, used.system)

def lowered_once(shape, weights):
    file = pathlib.Path(kept, type(shape).__name__ + ".pte")
    if not file.exists():
        file.write_bytes(lower(shape, weights))
    return file.read_bytes()

def progress(stage, done, total, detail=""):
    if detail.startswith("layer 0, expert"):
        mark("begin")
    elif detail == "head":
        mark("end")
        sys.stdout.write(json.dumps([b - a for a, b in zip(marks["begin"], marks["end"])]))
        sys.stdout.flush()
        os._exit(0)

lowering.lower = lowered_once
export_bundle(RandomWeights(preset, layers=1, vocab_size=64), out, "8da4w", progress=progress)
"""
_BUSY = "while True: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that always want a core."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(python: str, folder: Path) -> dict[str, float]:
    """One export: ``seconds``, and CPU seconds in ``user`` and ``system`` mode, of an expert."""
    kept = folder / "lowered"
    kept.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [python, "-c", _EXPORT, PRESET, f"{out}/bundle", str(kept)]
        # The installation's own package, not the one in this folder.
        done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    if done.returncode != 0:
        sys.exit(done.stderr)
    seconds = [span / EXPERTS for span in json.loads(done.stdout)]
    return dict(zip(("seconds", "user", "system"), seconds, strict=True))


def rows(versions: dict[str, str], loads: list[int], rounds: int, folder: Path) -> Iterator[Any]:
    """A measurement after the other: ``load``, ``round``, ``version`` and what it took."""
    measure(versions["after"], folder)  # lowers; not counted
    order = [*versions, *reversed(versions)] if len(versions) > 1 else [*versions]
    for load in loads:
        with busy(load):
            for turn in range(rounds):
                for version in order:
                    took = measure(versions[version], folder)
                    yield {"load": load, "round": turn, "version": version, **took}


def report(found: list[dict[str, Any]]) -> bool:
    """Prints a table; whether all of `after` reached the goal."""
    print(f"{'busy':>4} {'version':8} {'experts/s':>10} {'CPU s/expert':>13} {'experts/CPU s':>14}")
    fine = True
    for load in dict.fromkeys(row["load"] for row in found):
        costs: dict[str, list[list[float]]] = {}
        for version in dict.fromkeys(row["version"] for row in found):
            own = [row for row in found if (row["load"], row["version"]) == (load, version)]
            rate = statistics.median(1 / row["seconds"] for row in own)
            cost = statistics.median(row["user"] + row["system"] for row in own)
            print(f"{load:4} {version:8} {rate:10.1f} {cost:13.4f} {1 / cost:14.1f}")
            fine &= version == "before" or cost <= GOAL_CPU_SECONDS
            by_round: dict[int, list[dict[str, Any]]] = {}
            for row in own:
                by_round.setdefault(row["round"], []).append(row)
            costs[version] = [
                [
                    statistics.mean(row["seconds"] for row in turn),
                    statistics.mean(row["user"] + row["system"] for row in turn),
                ]
                for turn in by_round.values()
            ]
        if "before" in costs:
            pairs = list(zip(costs["before"], costs["after"], strict=True))
            for index, name in enumerate(("faster", "less CPU")):
                ratios = [old[index] / new[index] for old, new in pairs]
                span = f"{min(ratios):.2f} to {max(ratios):.2f}"
                print(f"     {name}: {statistics.median(ratios):.2f} times ({span})")
    return fine


def main() -> int:
    """Measures and prints; 1 if an expert takes more CPU time than the goal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--before", help="the Python of an installation to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--busy", type=int, nargs="+", default=[0, 6], help="processes that want a core too"
    )
    parser.add_argument("--dir", type=Path, help="where to export, by default a temporary folder")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    arguments = parser.parse_args()
    versions = {"after": sys.executable}
    if arguments.before is not None:
        versions = {"before": arguments.before, **versions}
    found = []
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        for row in rows(versions, arguments.busy, arguments.rounds, Path(folder)):
            found.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    if arguments.json is not None:
        about = {"preset": PRESET, "cores": len(os.sched_getaffinity(0))}
        lines = [json.dumps(line) for line in (about, *found)]
        arguments.json.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
