# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures the rows of a grid on one device.

A row has a process of its own, in which all its repetitions run: peak memory and page faults are
counted per process, and the context is what the row's test needs. Interleaved, a repetition has a
process of its own: two open engines would compete for the memory that is measured.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import moe_mobile
from moe_mobile.base.json_field import Json
from moe_mobile.base.progress import Progress, silent
from moe_mobile.bench import driver
from moe_mobile.bench.build import build
from moe_mobile.bench.driver import BundleFacts, Cell
from moe_mobile.bench.energy import in_microamperes, measure_energy
from moe_mobile.bench.filling import has_stopped
from moe_mobile.bench.gate import pass_gate
from moe_mobile.bench.regime import regime
from moe_mobile.bench.results import summarize
from moe_mobile.bench.row import BenchTest, Row
from moe_mobile.bench.sampler import Sampler
from moe_mobile.bench.store import TurnFile
from moe_mobile.bench.target import Target, open_target
from moe_mobile.device.interface import Device
from moe_mobile.device.state import read_state
from moe_mobile.errors import BudgetError, KilledError, MoeMobileError, RuntimeFailedError
from moe_mobile.settings import EngineSettings

_DEVICE_MEMBERS = (
    "serial", "kind", "model", "soc", "abi", "android_version", "ram_bytes", "page_size",
    "clusters", "virtual", "limit",
)  # fmt: skip
Failed = Callable[[Cell, MoeMobileError], None]

# Errors of one configuration that another may not have. A lost device is lost for all.
_OF_A_ROW = (KilledError, BudgetError, RuntimeFailedError)


def measure(
    target: Target,
    rows: Sequence[Cell],
    protocol: driver.Protocol,
    progress: Progress = silent,
    turns: TurnFile | None = None,
    failed: Failed | None = None,
    *,
    known: int = 0,
) -> Iterator[Row]:
    """The results of the rows, each as soon as it is complete: interleaved, that is at the end.

    ``turns`` has repetitions of an interleaved grid that was interrupted, and gets the new ones.
    ``failed`` gets rows whose engine failed or was killed, with the error; they have no result.
    ``known``: further rows that earlier runs measured; progress counts them as done.

    Raises DeviceError if the device is lost, CancelledError soon after Device.abort(), the
    engine's other errors, and without ``failed`` those of rows.
    """
    rows = [target.resolve(row) for row in rows]
    run = _Run(target, rows, protocol, progress, turns, failed)
    run.total = (known + len(rows)) * protocol.repetitions
    run.done = known * protocol.repetitions + run.found_turns()
    for row, repetitions in run.in_turns() if protocol.interleave else run.one_by_one():
        yield _result(target, row, protocol, repetitions)


def run_test(
    test: BenchTest,
    settings: EngineSettings,
    bundle: BundleFacts,
    *,
    device: Device | None = None,
    repetitions: int = 5,
    warmup: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> Row:
    """One row without a gate, on this machine by default."""
    if device is None:
        from moe_mobile.device.select import open_device

        device = open_device(None)
    packed_dir = settings.as_request().get("packed_dir")
    target = open_target(device, bundle, packed_dir=packed_dir, progress=progress)
    protocol = driver.Protocol(repetitions=repetitions, warmup=warmup, seed=seed)
    (result,) = measure(target, [(test, settings)], protocol, progress)
    return result


@dataclasses.dataclass(frozen=True)
class _Repetition:
    info: Json
    sample: Json
    run: Json


@dataclasses.dataclass
class _Run:
    """The rows of :func:`measure`; progress is counted in repetitions of all of them."""

    target: Target
    rows: Sequence[Cell]
    protocol: driver.Protocol
    progress: Progress
    turns: TurnFile | None
    failed: Failed | None
    total: int = 0
    done: int = 0

    def one_by_one(self) -> Iterator[tuple[Cell, list[_Repetition]]]:
        numbers = range(self.protocol.repetitions)
        for row in self.rows:
            before = self.done
            try:
                with _Opened(self, row) as opened:
                    found = [opened.repeat(number) for number in numbers]
            except _OF_A_ROW as error:
                self._leave_out(row, error, len(numbers) - (self.done - before))
                continue
            yield row, found

    def in_turns(self) -> Iterator[tuple[Cell, list[_Repetition]]]:
        found: dict[int, list[_Repetition]] = {index: [] for index in range(len(self.rows))}
        for number in range(self.protocol.repetitions):
            for index in list(found) if number % 2 == 0 else list(reversed(found)):
                try:
                    found[index].append(self._turn(self.rows[index], number))
                except _OF_A_ROW as error:
                    self._leave_out(self.rows[index], error, self.protocol.repetitions - number)
                    del found[index]
        for index, repetitions in found.items():
            yield self.rows[index], repetitions

    def found_turns(self) -> int:
        """Repetitions that an interrupted run kept."""
        if self.turns is None or not self.protocol.interleave:
            return 0
        keys = [self.target.key(row, self.protocol) for row in self.rows]
        numbers = range(self.protocol.repetitions)
        return sum(self.turns.get(key, number) is not None for key in keys for number in numbers)

    def step(self, detail: str) -> None:
        self.done += 1
        self.progress("bench", self.done, self.total, detail)

    def _turn(self, row: Cell, number: int) -> _Repetition:
        """Repetition `number` of an interleaved row, unless it was measured already."""
        key = self.target.key(row, self.protocol)
        earlier = None if self.turns is None else self.turns.get(key, number)
        if earlier is not None:
            return _Repetition(**earlier)
        with _Opened(self, row) as opened:
            repetition = opened.repeat(number)
        if self.turns is not None:
            self.turns.keep(key, number, dataclasses.asdict(repetition))
        return repetition

    def _leave_out(self, row: Cell, error: MoeMobileError, repetitions: int) -> None:
        """A row failed, with so many repetitions missing."""
        if self.failed is None:
            raise error
        self.failed(row, error)
        self.total -= repetitions


class _Opened:
    """A process that has the bundle open with the settings of a row, warmed up."""

    def __init__(self, run: _Run, row: Cell) -> None:
        self._run, self._target, self._protocol = run, run.target, run.protocol
        self._test, self._settings = row

    def __enter__(self) -> Self:
        runner = self._target.device.runner(cpus=self._target.affinity.pinned)
        self._runner = runner
        try:
            self._load_start_ms = _now_ms()
            self._info = runner.request(
                "open",
                bundle=self._target.folder,
                settings=self._settings.as_request(),
                progress=self._run.progress,
            )
            self._load_end_ms = _now_ms()
            self._warmed = self._warm_up()
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def _warm_up(self) -> int:
        """Runs that are not counted. Returns their tokens."""
        fills: list[float] = []
        for number in range(self._protocol.most_warmup):
            full = f", cache {math.floor(100 * fills[-1])} % full" if fills else ""
            self._run.progress("bench", self._run.done, self._run.total, f"warm-up{full}")
            sample = self._bench(self._protocol.repetitions + number)
            fills.append(float(sample.get("cache_fill", 1.0)))
            if self._protocol.warmup is None and has_stopped(fills, self._test.positions):
                break
        return len(fills) * self._test.positions

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._runner.__exit__(kind)
        if kind is not None:
            self._target.device.check_aborted()

    def repeat(self, number: int) -> _Repetition:
        """Repetition `number`, from 0: wait until it is cool, run, and record the surroundings."""
        target = self._target

        def waiting(what: str, waited: float, most: float) -> None:
            self._run.progress("cool", round(waited), round(most), what)

        wait = pass_gate(target.device, self._protocol.gate, waiting, target.device.aborted)
        sampler = Sampler(
            target.device, int(self._info["pid"]), wait.state.zones, target.spare_cpus
        )
        started = datetime.datetime.now(datetime.UTC)
        began = time.monotonic()
        start_ms = _now_ms()
        samples: list[Json] = []
        try:
            sample = self._bench(number)
            end_ms = _now_ms()
        finally:
            samples = sampler.stop(began)
        sampler.check()
        after = read_state(target.device)
        target.device.check_exclusive()
        charging = True if after.charging else wait.state.charging
        energy = measure_energy(
            samples,
            (sample["prompt_ns"] + sample["gen_ns"]) / 1e6,
            charging=charging,
            virtual=target.facts.virtual,
        )
        ends = [wait.state.as_dict(), after.as_dict()]
        entry, left = in_microamperes(samples, ends, charging=charging)
        run = {
            "session": target.session,
            "started_at": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "load_start_ms": self._load_start_ms,
            "load_end_ms": self._load_end_ms,
            "start_ms": start_ms,
            "end_ms": end_ms,
            "gate": wait.outcome,
            "waited_s": round(wait.waited_s, 1),
            "cache_fill": sample.get("cache_fill", 1.0),
            "warmup_tokens": self._warmed,
            "cpus": sampler.engine_cpus,
            "entry": entry,
            "exit": left,
            "memory": sample["memory"],
            "samples": in_microamperes(samples, samples, charging=charging),
            "energy_j": energy.joules,
            "energy_source": energy.source,
            "energy_note": energy.note,
        }
        self._run.step(self._test.name)
        return _Repetition(self._info, sample, run)

    def _bench(self, number: int) -> Json:
        trace = self._protocol.router_trace
        replayed: Json = {}
        if trace is not None:
            replayed["router_logits"] = trace.request(number, self._test.positions)
        (sample,) = self._runner.request(
            "bench",
            n_prompt=self._test.n_prompt,
            n_gen=self._test.n_gen,
            repetitions=1,
            warmup=False,
            seed=self._protocol.seed + number,
            **replayed,
        )["samples"]
        assert isinstance(sample, dict)
        return sample


def _result(
    target: Target, row: Cell, protocol: driver.Protocol, runs: Sequence[_Repetition]
) -> Row:
    bundle, facts = target.bundle, target.facts.as_dict()
    clusters = [{**cluster, "cpus": list(cluster["cpus"])} for cluster in facts["clusters"]]
    info = runs[0].info
    commit, number = build()
    loads = [run.info["load_ms"] for run in runs]
    return summarize(
        row[0],
        [run.sample for run in runs],
        [run.run for run in runs],
        {
            "build_commit": commit,
            "build_number": number,
            "cpu_info": target.facts.soc,
            "gpu_info": "",
            "backends": bundle.backend,
            "model_filename": str(bundle.path),
            "model_type": bundle.model_type,
            "model_size": bundle.model_size,
            "model_n_params": bundle.num_parameters,
            "n_batch": bundle.max_batch,
            "n_ubatch": bundle.max_batch,
            "n_threads": int(info["settings"]["threads"]),
            "test_time": runs[0].run["started_at"][:19] + "Z",
            "version": moe_mobile.__version__,
            "executorch_version": str(info["executorch"]),
            "bundle_hash": info["bundle_hash"],
            "config": _config(info["settings"]),
            "routing": info["routing"],
            "plan": info["plan"],
            "direct_io": bool(info["direct_io"]),
            "fallbacks": list(info["fallbacks"]),
            "load_ms": sum(loads) / len(loads),
            "run_key": target.key(row, protocol),
            "device": {name: facts[name] for name in _DEVICE_MEMBERS} | {"clusters": clusters},
            "affinity": target.affinity.as_dict(),
            "regime": regime(protocol),
        },
    )


def _config(settings: Json) -> Json:
    """The settings of a row, without the profile: it lists all experts of the model."""
    return {name: value for name, value in settings.items() if name != "cache_profile"}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
