# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile bench`."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import sys
from typing import Any

import click

from moe_mobile.base.routings import split_routings
from moe_mobile.bench.affinity import check_wish
from moe_mobile.bench.driver import (
    Protocol,
    Settings,
    bundle_facts,
    check_fits,
    check_settings,
    grid,
)
from moe_mobile.bench.fleet import Plan
from moe_mobile.bench.gate import CPU_ABOVE_C, Gate
from moe_mobile.bench.render import FORMATS, Shown, make_renderer
from moe_mobile.bench.results import BenchTest
from moe_mobile.bench.store import ResultFile
from moe_mobile.bundle.reader import read_manifest
from moe_mobile.cli import grids
from moe_mobile.cli.bench_run import run_plan
from moe_mobile.cli.options import (
    INITIAL_CACHES,
    RESIDENCIES,
    bundle_argument,
    common_engine_options,
    devices_options,
    examples,
    initial_cache_option,
    initial_cache_settings,
)
from moe_mobile.cli.output import check_plot
from moe_mobile.cli.tuned import (
    Tuned,
    is_default,
    require_cache,
    require_routing,
    settings_file_option,
)
from moe_mobile.cli.writable import check_outputs
from moe_mobile.device.select import open_devices
from moe_mobile.errors import UsageError

_COOL_C = 40.0
_COOL_SECONDS = 300.0


@click.command(
    epilog=examples(
        "moe-mobile bench olmoe                              # pp512 and tg128, five times each",
        "moe-mobile bench olmoe -p 0 -n 64,128 --cache 25%,50%,75%",
        "moe-mobile bench olmoe -p 0 --routing exact,cache-prior:0.2,J=2 --interleave",
        "moe-mobile bench olmoe --residency slots,programs -o jsonl > results.jsonl",
        "moe-mobile bench olmoe -p 0 -r 1 --plot tokens.html # where each token's time goes",
        "moe-mobile bench olmoe --device any --out phone.jsonl",
        "moe-mobile bench olmoe --device any --out phone.jsonl --resume   # after an interruption",
        "moe-mobile bench olmoe --all --cache 25%,50%,100% --lanes 1,2,4 --interleave",
    )
)
@bundle_argument
@settings_file_option
@click.option(
    "-p",
    "--n-prompt",
    default="512",
    metavar="N,...",
    show_default=True,
    help="Prompt lengths to measure; 0: none.",
)
@click.option(
    "-n",
    "--n-gen",
    default="128",
    metavar="N,...",
    show_default=True,
    help="Numbers of tokens to decode; 0: none.",
)
@click.option(
    "-pg", "prompt_gen", metavar="P,N", multiple=True, help="Both in one test: -pg 512,128."
)
@click.option(
    "-r",
    "--repetitions",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Times to repeat each test.",
)
@click.option(
    "--cache",
    default="50%",
    metavar="SIZE,...",
    show_default=True,
    help="Memory for experts; see generate.",
)
@click.option(
    "--residency",
    default="slots",
    metavar="KIND,...",
    show_default=True,
    help=f"Any of {', '.join(RESIDENCIES)}.",
)
@click.option(
    "--lanes", default="2", metavar="N,...", show_default=True, help="Reads in flight at once."
)
@click.option(
    "-t",
    "--threads",
    default="auto",
    metavar="N,...",
    show_default=True,
    help="Threads that compute.",
)
@click.option(
    "--routing",
    multiple=True,
    default=("exact",),
    metavar="METHOD,...",
    show_default=True,
    help="How experts are chosen, see generate; may be given several times.",
)
@initial_cache_option("warm")
@common_engine_options
@click.option(
    "--router-trace",
    type=click.Path(path_type=pathlib.Path),
    metavar="FILE",
    help="Let this trace stand for what the routers say (see trace): for weights that are random.",
)
@devices_options
@click.option(
    "--affinity",
    default="big",
    metavar="big|all|CORES",
    show_default=True,
    help="Cores to keep the engine to: the fast ones, all, or a list like 4-6,7.",
)
@click.option(
    "--cool-to",
    default="auto",
    metavar="C|off",
    show_default=True,
    help="Before each repetition wait until skin and battery are at most this warm, and the CPU at "
    f"most {CPU_ABOVE_C:g} more; auto: {_COOL_C:g} on phones.",
)
@click.option(
    "--cool-timeout",
    type=click.FloatRange(0),
    default=_COOL_SECONDS,
    metavar="S",
    show_default=True,
    help="Seconds to wait at most; the repetition is measured all the same, and flagged.",
)
@click.option(
    "--interleave",
    is_flag=True,
    help="A repetition of each row, then of each in reverse order, and so on: heat and time of "
    "day meet all rows alike. Opens the bundle anew for each.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0, 1000),
    default=1,
    show_default=True,
    metavar="N",
    help="Runs of each test before measuring; a large cache takes several to fill.",
)
@click.option("--no-warmup", "warmup", flag_value=0, help="The same as --warmup 0.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the random tokens, read and decoded; repetition r, from 0, has those of seed + r. "
    "Up to 32 bits.",
)
@click.option(
    "-o", "--output", type=click.Choice(FORMATS), help="How to print rows.  [default: md]"
)
@click.option("--json", "as_json", is_flag=True, help="The same as -o json; errors as JSON too.")
@click.option("--tokens", is_flag=True, help="With json and jsonl: the parts of every token too.")
@click.option(
    "--out",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help="Keep rows, with every token, in this file of JSON lines too: each is on disk before the "
    "next is measured.",
)
@click.option("--resume", is_flag=True, help="Continue --out: measure only what it lacks.")
@click.option(
    "--plot",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help="Draw each decoded token's time and its parts as an HTML page.",
)
def command(
    bundle: pathlib.Path,
    n_prompt: str,
    n_gen: str,
    prompt_gen: tuple[str, ...],
    repetitions: int,
    cache: str,
    residency: str,
    lanes: str,
    threads: str,
    routing: tuple[str, ...],
    settings_file: pathlib.Path | None,
    initial_cache: str,
    router_trace: pathlib.Path | None,
    devices: tuple[str, ...],
    every: bool,
    affinity: str,
    cool_to: str,
    cool_timeout: float,
    interleave: bool,
    warmup: int,
    seed: int,
    output: str | None,
    as_json: bool,
    tokens: bool,
    out: pathlib.Path | None,
    resume: bool,
    plot: pathlib.Path | None,
    **common: Any,
) -> int:
    """Measure a bundle as llama-bench measures a model, and how its experts stream.

    All tokens are random, as llama-bench has them. Values separated by commas multiply into a
    grid; every row runs in a fresh process. On phones, what they lack is sent first.
    docs/measuring-on-phones.md says how to get numbers that others can trust.
    """
    tests = [BenchTest(n, 0) for n in grids.values("-p", n_prompt, grids.natural) if n]
    tests += [BenchTest(0, n) for n in grids.values("-n", n_gen, grids.natural) if n]
    tests += [grids.pair(value) for value in prompt_gen]
    if not tests:
        raise UsageError("nothing to measure", remedy="Give -p, -n or -pg a number above 0")
    if as_json and output not in (None, "json"):
        raise UsageError(
            f"--json and -o {output} contradict each other", remedy="Give one of the two"
        )
    if resume and out is None:
        raise UsageError("--resume needs --out", remedy="Name the file to continue with --out")
    inputs = {"BUNDLE": bundle, "--settings": settings_file, "--router-trace": router_trace}
    if initial_cache not in INITIAL_CACHES:
        inputs["--initial-cache"] = pathlib.Path(initial_cache)
    check_outputs({"--out": out, "--plot": plot}, inputs)
    check_plot(plot)
    common["packed_dir"] = None if common["packed_dir"] is None else str(common["packed_dir"])
    residencies = grids.values("--residency", residency, grids.residency)
    tuned = None
    if settings_file is not None:
        require_cache(settings_file, residencies)
        tuned = Tuned(settings_file, bundle)
    cached = {name: common.pop(name) for name in ("pool", "eviction")}
    cached |= {"cache": cache, "routing": routing, "initial_cache": initial_cache}
    rows = grid(
        tests,
        [Settings(**common, **one) for one in _caches(cached, tuned, bundle)],
        residencies=residencies,
        lanes=grids.values("--lanes", lanes, grids.positive),
        threads=grids.values("-t", threads, grids.threads),
    )
    check_settings([settings for _, settings in rows])
    check_wish(affinity)
    gate = _gate(cool_to, cool_timeout)
    protocol = Protocol(repetitions, warmup, seed, interleave=interleave)
    facts = bundle_facts(bundle)
    check_fits(tests, facts, common["context"])
    manifest = read_manifest(bundle)
    for one in {settings.routing for _, settings in rows}:
        require_routing(manifest, one, manifest.moe.num_experts)
    trace = None
    if router_trace is not None:
        from moe_mobile.bench.router_trace import open_router_trace

        trace = open_router_trace(
            router_trace,
            manifest=manifest,
            positions=max(test.positions for test in tests),
        )
    opened = open_devices(devices, every=every, otherwise=None)
    places = opened.devices
    file = None if out is None else ResultFile(out, resume=resume)
    plan = Plan(
        bundle=facts,
        rows=rows,
        protocol=dataclasses.replace(protocol, router_trace=trace),
        gate=gate,
        gate_asked=cool_to != "auto",
        affinity=affinity,
        packed_dir=common["packed_dir"],
    )
    shown = Shown(
        make_renderer("json" if as_json else output or "md", sys.stdout, tokens=tokens),
        rows,
        phones=sum(place.serial != "local" for place in places),
        note=lambda text: click.echo(text, err=True),
    )
    return run_plan(plan, opened, shown, file, plot=plot, as_json=as_json)


def _caches(
    given: dict[str, Any], tuned: Tuned | None, bundle: pathlib.Path
) -> list[dict[str, Any]]:
    """Settings of each cache and routing, in the order the user gave them.

    ``given``: values of the options that a file of settings may stand for.
    """
    sizes: list[str | None] = [*grids.values("--cache", given["cache"], str)]
    if tuned is not None and is_default("cache"):
        sizes = [None]  # the file's
    settings = []
    for size in sizes:
        one = given | {"cache": size} | ({} if tuned is None else tuned.values(size))
        routings = one.pop("routing")
        one |= initial_cache_settings(one["initial_cache"], bundle)
        for routing in split_routings([routings] if isinstance(routings, str) else routings):
            settings.append(one | {"routing": routing})
    return settings


def _gate(text: str, timeout: float) -> Gate | None:
    if text in ("off", "auto"):
        gate = Gate(_COOL_C, timeout)  # a time that is none is refused without a gate too
        return gate if text == "auto" else None
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*°?C?", text, re.ASCII | re.IGNORECASE)
    if match is None:
        raise UsageError(
            f"--cool-to {text}: no temperature", remedy="Write degrees Celsius like 40, or off"
        )
    return Gate(float(match[1]), timeout)
