# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What preparing and opening a large bundle take, and whether the memory plan is held meanwhile.

python -m benchmarks.opening BUNDLE
python -m benchmarks.opening BUNDLE --before /path/to/other/moe_runner --json opening.json

Each runner, by turns, prepares the bundle into a folder of its own, opens it with several cache
sizes, answers with five tokens, and then with enough to use the cache. CPU seconds are those of the
engine's process. The peak is the largest anonymous memory seen every few milliseconds, less what
the process has before it prepares or opens anything; a cache's last line has that of all its steps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_mobile.bundle import inspect_bundle
from moe_mobile.runner import Runner

MIB = 2**20
EVERY_SECONDS = 0.002
FIRST_ANSWER = 5


@dataclass
class Cost:
    """Of one step: seconds by the clock and of the CPU, and MiB."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _anonymous(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def measured(runner: Runner, base: float) -> Iterator[Cost]:
    cost, done = Cost(), threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_SECONDS):
            cost.peak = max(cost.peak, _anonymous(runner.pid) - base)

    thread = threading.Thread(target=watch)
    cpu, start = _cpu_seconds(runner.pid), time.perf_counter()
    thread.start()
    try:
        yield cost
    finally:
        cost.wall = time.perf_counter() - start
        cost.cpu = _cpu_seconds(runner.pid) - cpu
        done.set()
        thread.join()


@dataclass
class Measurements:
    """Of one runner: what each step took, once per round."""

    steps: dict[str, list[Cost]] = field(default_factory=dict)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, step: str, cost: Cost) -> None:
        self.steps.setdefault(step, []).append(cost)

    def medians(self) -> dict[str, dict[str, float]]:
        return {
            step: {
                name: round(statistics.median(getattr(cost, name) for cost in costs), 3)
                for name in ("wall", "cpu", "peak")
            }
            for step, costs in self.steps.items()
        }


def measure(
    program: Path | None, bundle: Path, store: Path, caches: list[str], found: Measurements
) -> None:
    """One round. The store is made anew, so that its pages are as the runner leaves them."""
    shutil.rmtree(store, ignore_errors=True)
    with Runner(program) as runner:
        with measured(runner, _anonymous(runner.pid)) as cost:
            runner.request("prepare", bundle=str(bundle), packed_dir=str(store))
        found.add("prepare", cost)
    facts = inspect_bundle(bundle)
    vocabulary = facts["model"]["vocab_size"]
    tokens = random.Random(1).choices(range(vocabulary), k=256)
    for cache in caches:
        with Runner(program) as runner:
            base = _anonymous(runner.pid)
            settings = {"threads": 1, "cache": cache, "packed_dir": str(store), "context": 512}
            with measured(runner, base) as cost:
                info = runner.request("open", bundle=str(bundle), settings=settings)
            found.plans[cache] = info["plan"]
            found.add(f"open {cache}", cost)
            peak = cost.peak
            for name, count in (("five tokens", FIRST_ANSWER), ("64 tokens", 64)):
                with measured(runner, base) as cost:
                    runner.request(
                        "generate", token_ids=tokens[:8], max_new_tokens=count, ignore_eos=True
                    )
                found.add(f"{name} {cache}", cost)
                peak = max(peak, cost.peak)
            with measured(runner, base) as cost:
                runner.request("generate", token_ids=tokens, max_new_tokens=1, ignore_eos=True)
            cost.peak = max(peak, cost.peak)
            found.add(f"prompt of 256 tokens {cache}", cost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--before", type=Path, help="moe_runner of another version")
    parser.add_argument("--caches", default="25%,50%,75%")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()

    runners: dict[str, Path | None] = {"now": None}
    if options.before is not None:
        runners = {"before": options.before, **runners}
    found = {name: Measurements() for name in runners}
    with tempfile.TemporaryDirectory(dir=options.bundle.resolve().parent) as folder:
        for _ in range(options.rounds):
            for name, program in runners.items():
                store = Path(folder, "store")
                measure(program, options.bundle, store, options.caches.split(","), found[name])

    print(f"{'':28}" + "".join(f"{name:>10} wall s  CPU s   MiB" for name in runners))
    medians = {name: measurements.medians() for name, measurements in found.items()}
    for step in medians["now"]:
        cells = (medians[name][step] for name in runners)
        figures = "".join(f"{c['wall']:17.2f}{c['cpu']:7.2f}{c['peak']:6.0f}" for c in cells)
        print(f"{step:28}{figures}")
    for cache, plan in found["now"].plans.items():
        peak = medians["now"][f"prompt of 256 tokens {cache}"]["peak"]
        total = plan["total_bytes"] / MIB
        print(f"{cache}: {plan['slots']} slots, plan {total:.0f} MiB, peak {peak:.0f} MiB")
    if options.json is not None:
        answer = {
            "bundle": options.bundle.name,
            "cores": len(os.sched_getaffinity(0)),
            "medians": medians,
            "plans": {name: measurements.plans for name, measurements in found.items()},
        }
        options.json.write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
