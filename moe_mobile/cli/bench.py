# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile bench`."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from moe_mobile.base.routings import split_routings
from moe_mobile.base.text import digits
from moe_mobile.bench.affinity import check_wish
from moe_mobile.bench.driver import (
    Cell,
    Protocol,
    bundle_facts,
    check_fits,
    grid,
)
from moe_mobile.bench.filling import FULL, MOST_RUNS
from moe_mobile.bench.fleet import Plan
from moe_mobile.bench.gate import COOL_C, COOL_SECONDS, CPU_ABOVE_C, parse_gate
from moe_mobile.bench.render import FORMATS, Shown, make_renderer
from moe_mobile.bench.row import BenchTest
from moe_mobile.bench.store import ResultFile
from moe_mobile.bundle.manifest import Manifest
from moe_mobile.bundle.reader import read_manifest
from moe_mobile.cli import grids
from moe_mobile.cli.bench_run import run_plan
from moe_mobile.cli.commands import again, cli_command, group_of, option
from moe_mobile.cli.options import (
    RESIDENCIES,
    CacheOptions,
    DevicesOptions,
    LabOptions,
    ReadingOptions,
    RowsOptions,
    bundle_argument,
    devices_options,
    initial_cache_settings,
    profile_path,
    rows_options,
)
from moe_mobile.cli.output import check_plot
from moe_mobile.cli.tuned import (
    Tuned,
    is_default,
    require_cache,
    require_routing,
    settings_file_option,
)
from moe_mobile.cli.types import OUTPUT, PATH, Choice, Number, Whole, cache_size
from moe_mobile.cli.writable import check_outputs
from moe_mobile.errors import UsageError, did_you_mean
from moe_mobile.settings import EngineSettings

if TYPE_CHECKING:
    from moe_mobile.bench.router_trace import RouterTrace


_MOST_REPETITIONS = 1_000_000


class _Warmup(click.ParamType[int | None]):
    """A number of runs, or None for ``full``."""

    name = "warmup"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if value is None or value == FULL:
            return None
        try:
            return Whole(0, MOST_RUNS).convert(value, param, ctx)
        except click.BadParameter as error:
            is_number = re.fullmatch("[+-]?[0-9]+", str(value).strip()) is not None
            raise UsageError(
                error.message.rstrip(".") if is_number else f"{value!r} is no number, nor {FULL}",
                setting="--warmup",
                remedy=did_you_mean(
                    str(value), [FULL], f"Give 0 to {MOST_RUNS} runs, or {FULL}: until it is full"
                ),
            ) from None


@dataclass(frozen=True)
class _Tests:
    """What is measured, and how often."""

    n_prompt: str = option(
        "-p",
        "--n-prompt",
        default="512",
        metavar="N,...",
        help="Prompt lengths to measure; 0: none.",
    )
    n_gen: str = option(
        "-n",
        "--n-gen",
        default="128",
        metavar="N,...",
        help="Numbers of tokens to decode; 0: none.",
    )
    prompt_gen: tuple[str, ...] = option(
        "-pg", metavar="P,N", multiple=True, help="A prompt and decoding in one test: -pg 512,128."
    )
    router_trace: pathlib.Path | None = option(
        "--router-trace",
        type=PATH,
        metavar="FILE",
        help="Take router logits from this trace (see trace) instead of the routers, for random "
        "weights.",
    )
    repetitions: int = option(
        "-r",
        "--repetitions",
        type=Whole(1, _MOST_REPETITIONS),
        default=5,
        help="Times to repeat each test.",
    )
    warmup: int | None = option(
        "--warmup",
        type=_Warmup(),
        default="1",
        metavar="N|full",
        help="Runs of each test before measuring; full: until the cache is full.",
    )
    seed: int = option(
        "--seed",
        type=Whole(0),
        default=0,
        help="Seed of the random tokens, up to 32 bits; repetition r, from 0, uses seed + r.",
    )
    interleave: bool = option(
        "--interleave",
        is_flag=True,
        help="Run one repetition of each row, then one of each in reverse order, and so on, so "
        "that heat and time of day affect all rows alike. Opens the bundle again for each.",
    )

    def tests(self) -> list[BenchTest]:
        """Raises UsageError for an invalid list of numbers, and if no number is above 0."""
        tests = [BenchTest(n, 0) for n in grids.values("-p", self.n_prompt, grids.natural) if n]
        tests += [BenchTest(0, n) for n in grids.values("-n", self.n_gen, grids.natural) if n]
        tests += [grids.pair(value) for value in self.prompt_gen]
        if not tests:
            raise UsageError("nothing to measure", remedy="Give -p, -n or -pg a number above 0")
        return tests

    def trace(self, manifest: Manifest, tests: Sequence[BenchTest]) -> RouterTrace | None:
        """The router trace, if there is one. Raises what reading it does."""
        if self.router_trace is None:
            return None
        from moe_mobile.bench.router_trace import open_router_trace  # imports numpy

        positions = max(test.positions for test in tests)
        return open_router_trace(self.router_trace, manifest=manifest, positions=positions)

    def protocol(self, trace: RouterTrace | None) -> Protocol:
        """Raises UsageError for a seed that is too large."""
        return Protocol(
            self.repetitions,
            self.warmup,
            self.seed,
            interleave=self.interleave,
            router_trace=trace,
        )


@dataclass(frozen=True)
class _Grid:
    """Settings of the engine; those with several values multiply into a grid."""

    cache: str = again(
        CacheOptions,
        "cache",
        type=str,
        metavar="SIZE,...",
        help="Memory for experts; see generate.",
    )
    routing: tuple[str, ...] = again(
        LabOptions,
        "routings",
        help="How experts are chosen, see generate; may be given several times.",
    )
    residency: str = again(
        ReadingOptions,
        "residency",
        type=str,
        metavar="KIND,...",
        help=f"Any of {', '.join(RESIDENCIES)}.",
    )
    lanes: str = again(ReadingOptions, "lanes", type=str, default="2", metavar="N,...")
    threads: str = again(
        ReadingOptions,
        "threads",
        type=str,
        default="auto",
        metavar="N,...",
        help="Threads that compute.",
    )
    precision: str = again(CacheOptions, "precision")
    initial_cache: str = again(CacheOptions, "initial_cache", default="warm")
    pool: str = again(CacheOptions, "pool")
    eviction: str = again(CacheOptions, "eviction")
    context: int | None = again(
        ReadingOptions,
        "context",
        help="Positions to keep keys and values for.  [default: what a test needs]",
    )
    packed_dir: pathlib.Path | None = again(ReadingOptions, "packed_dir")
    allow_below_cycle: bool = again(CacheOptions, "allow_below_cycle")

    def rows(
        self, bundle: pathlib.Path, tests: Sequence[BenchTest], settings_file: pathlib.Path | None
    ) -> list[Cell]:
        """Every test with all settings. Raises UsageError for settings that no engine takes."""
        residencies = grids.values("--residency", self.residency, grids.residency)
        tuned = None
        if settings_file is not None:
            require_cache(settings_file, residencies)
            tuned = Tuned(settings_file, bundle)
        rows = grid(
            tests,
            self._settings(bundle, tuned),
            residencies=residencies,
            lanes=grids.values("--lanes", self.lanes, grids.positive),
            threads=grids.values("-t", self.threads, grids.threads),
        )
        for _, settings in rows:
            settings.check()
        return rows

    def _settings(self, bundle: pathlib.Path, tuned: Tuned | None) -> list[EngineSettings]:
        """Of each cache and routing, in the order the user gave them.

        ``tuned`` stands for options that were not given.
        """
        sizes: list[str | None] = [*grids.values("--cache", self.cache, cache_size)]
        if tuned is not None and is_default("cache"):
            sizes = [None]  # the file's
        found = []
        for size in sizes:
            one = vars(self) | {"cache": size, "lanes": None, "threads": None}
            one |= {} if tuned is None else tuned.values(size)
            one |= initial_cache_settings(one["initial_cache"], bundle)
            routings = one.pop("routing")
            for routing in split_routings([routings] if isinstance(routings, str) else routings):
                found.append(EngineSettings().with_values(one | {"routing": routing}))
        return found

    @property
    def packed(self) -> str | None:
        return None if self.packed_dir is None else str(self.packed_dir)


@dataclass(frozen=True)
class _Phone:
    """Options that keep a phone's numbers comparable."""

    affinity: str = option(
        "--affinity",
        default="big",
        metavar="big|all|CORES",
        help="Cores to keep the engine to: the fast ones, all, or a list like 4-6,7.",
    )
    cool_to: str = option(
        "--cool-to",
        default="auto",
        metavar="C|off|auto",
        help="Before each repetition wait until skin and battery are at most this warm, the "
        f"CPU at most {digits(CPU_ABOVE_C)} more; auto: {digits(COOL_C)} on phones.",
    )
    cool_timeout: float = option(
        "--cool-timeout",
        type=Number(0),
        default=COOL_SECONDS,
        metavar="S",
        help="Seconds to wait at most; then the repetition is measured anyway, and flagged.",
    )


@dataclass(frozen=True)
class _Output:
    """How rows are shown."""

    format: str | None = option(
        "--format", type=Choice(FORMATS), help="How to print rows.  [default: md]"
    )
    as_json: bool = option(
        "--json", is_flag=True, help="The same as --format json, with errors as JSON."
    )
    token_parts: bool = option(
        "--token-parts", is_flag=True, help="With json and jsonl: add the parts of every token."
    )
    plot: pathlib.Path | None = option(
        "--plot",
        type=OUTPUT,
        help="Draw each decoded token's time and its parts as an HTML page.",
    )

    def check(self) -> None:
        """Raises UsageError for two formats."""
        if self.as_json and self.format not in (None, "json"):
            raise UsageError(
                f"--json and --format {self.format} contradict each other",
                remedy="Give one of the two",
            )

    @property
    def resolved(self) -> str:
        """The format."""
        return "json" if self.as_json else self.format or "md"


@cli_command(
    "moe-mobile bench olmoe                              # pp512 and tg128, five times each",
    "moe-mobile bench olmoe -p 0 -n 64,128 --cache 25%,50%,75%",
    "moe-mobile bench olmoe -p 0 --routing exact,cache-prior:0.2,J=2 --interleave",
    "moe-mobile bench olmoe --residency slots,programs --format jsonl > rows.jsonl",
    "moe-mobile bench olmoe -p 0 -r 1 --plot tokens.html # where each token's time goes",
    "moe-mobile bench olmoe --device any --out phone.jsonl",
    "moe-mobile bench olmoe --device any --out phone.jsonl --resume   # after an interruption",
    "moe-mobile bench olmoe --all --cache 25%,50%,100% --lanes 1,2,4 --interleave",
)
@bundle_argument
@settings_file_option
@group_of(_Tests, "wanted")
@group_of(_Grid, "engine")
@devices_options
@group_of(_Phone, "phone")
@rows_options
@group_of(_Output, "shown")
def command(
    bundle: pathlib.Path,
    settings_file: pathlib.Path | None,
    wanted: _Tests,
    engine: _Grid,
    devices: DevicesOptions,
    phone: _Phone,
    kept: RowsOptions,
    shown: _Output,
) -> int:
    """Measure a bundle as llama-bench measures a model, and how its experts stream.

    All tokens are random, as in llama-bench. Values separated by commas multiply into a
    grid; every row runs in a fresh process. On phones, what is missing there is sent first.
    docs/measuring-on-phones.md says how to get numbers that others can trust.
    """
    tests = wanted.tests()
    shown.check()
    kept.check()
    inputs = {
        "BUNDLE": bundle,
        "--settings": settings_file,
        "--router-trace": wanted.router_trace,
        "--initial-cache": profile_path(engine.initial_cache),
    }
    if kept.rows is not None and str(kept.rows) in FORMATS:
        raise UsageError(
            f"{str(kept.rows)!r} is a format, and this names a file",
            setting="--out",
            remedy=f"Was --format {kept.rows} meant? Else give the file an ending",
        )
    check_outputs({"--out": kept.rows, "--plot": shown.plot}, inputs)
    check_plot(shown.plot)
    rows = engine.rows(bundle, tests, settings_file)
    check_wish(phone.affinity)
    gate = parse_gate(phone.cool_to, phone.cool_timeout)
    wanted.protocol(None)  # a wrong seed before a wrong bundle
    if wanted.warmup is None:
        _require_warm(rows)
    facts = bundle_facts(bundle)
    check_fits(tests, facts, engine.context)
    manifest = read_manifest(bundle)
    for routing in {settings.routing.method for _, settings in rows}:
        require_routing(manifest, routing, manifest.moe.num_experts)
    plan = Plan(
        bundle=facts,
        rows=rows,
        protocol=wanted.protocol(wanted.trace(manifest, tests)),
        gate=gate,
        gate_asked=phone.cool_to != "auto",
        affinity=phone.affinity,
        packed_dir=engine.packed,
    )
    opened = devices.open(otherwise=None)
    file = None if kept.rows is None else ResultFile(kept.rows, resume=kept.resume)
    told = Shown(
        make_renderer(shown.resolved, sys.stdout, tokens=shown.token_parts),
        rows,
        phones=[place.serial for place in opened.devices if place.serial != "local"],
        note=lambda text: click.echo(text, err=True),
    )
    return run_plan(plan, opened, told, file, kept, plot=shown.plot, as_json=shown.as_json)


def _require_warm(rows: Sequence[Cell]) -> None:
    """Raises UsageError for rows whose cache begins anew in each run, so that none fills it."""
    for _, settings in rows:
        state = settings.as_request()["initial_cache"]
        if state != "warm":
            raise UsageError(
                f"each run begins with a cache that is {state}, so that none fills it",
                setting="--warmup",
                remedy="Give --initial-cache warm, or a number of runs",
            )
