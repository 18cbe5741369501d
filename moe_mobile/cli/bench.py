# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile bench`."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from moe_mobile.bench.driver import (
    BundleFacts,
    Settings,
    check_fits,
    check_settings,
    grid,
    run_test,
)
from moe_mobile.bench.plot import check_plot, plot_results
from moe_mobile.bench.render import FORMATS, Renderer, make_renderer
from moe_mobile.bench.results import BenchTest
from moe_mobile.cli.options import (
    RESIDENCIES,
    bundle_argument,
    common_engine_options,
    examples,
)
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.errors import UsageError

Item = TypeVar("Item")


@click.command(
    epilog=examples(
        "moe-mobile bench olmoe                              # pp512 and tg128, five times each",
        "moe-mobile bench olmoe -p 0 -n 64,128 --cache 25%,50%,75%",
        "moe-mobile bench olmoe --residency slots,programs -o jsonl > results.jsonl",
        "moe-mobile bench olmoe -p 0 -r 1 --plot tokens.svg  # where each token's time goes",
    )
)
@bundle_argument
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
@common_engine_options
@click.option("--no-warmup", is_flag=True, help="Do not run each test once before measuring.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the prompt's tokens."
)
@click.option(
    "-o", "--output", type=click.Choice(FORMATS), help="How to print rows.  [default: md]"
)
@click.option("--json", "as_json", is_flag=True, help="The same as -o json; errors as JSON too.")
@click.option("--tokens", is_flag=True, help="With json and jsonl: the parts of every token too.")
@click.option(
    "--plot",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    help="Draw each decoded token's time and its parts (png, svg or pdf; needs matplotlib).",
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
    no_warmup: bool,
    seed: int,
    output: str | None,
    as_json: bool,
    tokens: bool,
    plot: pathlib.Path | None,
    **common: Any,
) -> None:
    """Measure a bundle as llama-bench measures a model, and how its experts stream.

    All tokens are random, as llama-bench has them. Values separated by commas multiply into a
    grid; every row runs in a fresh process.
    """
    tests = [BenchTest(n, 0) for n in _list("-p", n_prompt, _natural) if n]
    tests += [BenchTest(0, n) for n in _list("-n", n_gen, _natural) if n]
    tests += [_pair(value) for value in prompt_gen]
    if not tests:
        raise UsageError("nothing to measure", remedy="Give -p, -n or -pg a number above 0")
    if as_json and output not in (None, "json"):
        raise UsageError(f"--json and -o {output} contradict each other")
    if plot is not None:
        check_plot(plot)
    common["packed_dir"] = None if common["packed_dir"] is None else str(common["packed_dir"])
    base = Settings(**common)
    rows = grid(
        tests,
        base,
        caches=_list("--cache", cache, str),
        residencies=_list("--residency", residency, _residency),
        lanes=_list("--lanes", lanes, _positive),
        threads=_list("-t", threads, _threads),
    )
    check_settings([settings for _, settings in rows])
    facts = bundle_facts(bundle)
    check_fits(tests, facts, base.context)
    renderer = make_renderer("json" if as_json else output or "md", sys.stdout, tokens=tokens)
    results = _measure(rows, facts, renderer, repetitions, not no_warmup, seed)
    if plot is not None:
        plot_results(results, plot)


def _measure(
    rows: Sequence[tuple[BenchTest, Settings]],
    facts: BundleFacts,
    renderer: Renderer,
    repetitions: int,
    warmup: bool,
    seed: int,
) -> list[Any]:
    results = []
    renderer.begin(rows)
    try:
        for test, settings in rows:
            with ProgressBar() as progress:
                result = run_test(
                    test,
                    settings,
                    facts,
                    repetitions=repetitions,
                    warmup=warmup,
                    seed=seed,
                    progress=progress,
                )
            for fallback in result.fallbacks:
                click.echo(f"note: {fallback}", err=True)
            results.append(result)
            renderer.row(result)
    finally:
        renderer.end()
    return results


def bundle_facts(bundle: pathlib.Path) -> BundleFacts:
    """What results say about a bundle, from its manifest."""
    from moe_mobile.bundle import read_manifest

    manifest = read_manifest(bundle)
    quantization = manifest.quantization
    return BundleFacts(
        path=bundle,
        model_type=f"{manifest.model.name} {quantization.experts}",
        model_size=(
            manifest.memory.dense_bytes
            + manifest.memory.embedding_bytes
            + manifest.memory.experts_bytes
        ),
        num_parameters=manifest.model.num_parameters,
        max_batch=manifest.max_batch,
        context_length=manifest.model.context_length,
        backend=manifest.delegate.name.upper(),
    )


def _list(option: str, text: str, parse: Callable[[str], Item]) -> list[Item]:
    try:
        parts = [part.strip() for part in text.split(",")]
        if "" in parts:
            raise ValueError("a value is missing")
        return [parse(part) for part in parts]
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    value = _natural(text)
    if value == 0:
        raise ValueError("0 is too small")
    return value


def _threads(text: str) -> int | None:
    return None if text == "auto" else _positive(text)


def _residency(text: str) -> str:
    if text not in RESIDENCIES:
        raise ValueError(f"{text!r} is none of {', '.join(RESIDENCIES)}")
    return text


def _pair(text: str) -> BenchTest:
    numbers = _list("-pg", text, _positive)
    if len(numbers) != 2:
        raise UsageError(f"-pg {text}: two numbers are needed", remedy="Write it like -pg 512,128")
    return BenchTest(*numbers)
