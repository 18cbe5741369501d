# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile demo`: the whole way once, then what slots gain on experts of real size."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from moe_mobile.base.pins import executorch_version
from moe_mobile.base.statistics import percentile
from moe_mobile.base.text import percent, size, table
from moe_mobile.bench.driver import bundle_facts
from moe_mobile.bench.measure import run_test
from moe_mobile.bench.row import BenchTest, Row
from moe_mobile.bundle.quantization import DEFAULT_QUANT
from moe_mobile.cli.answering import Sampling, opened, statistics_line
from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.describe import summary
from moe_mobile.cli.generate import prompt_of
from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.types import PathType
from moe_mobile.errors import (
    CheckpointError,
    DeviceError,
    MoeMobileError,
    UnsupportedError,
    write_error,
)
from moe_mobile.runner import Runner
from moe_mobile.settings import EngineSettings

if TYPE_CHECKING:
    from moe_mobile.model.source import SourceLike

DEFAULT_FOLDER = pathlib.Path("demo-output")
_CACHE = "50%"
_NEW_TOKENS = 120
_PROMPT_CHARACTERS = 228
_PRESET = "Qwen1.5-MoE-A2.7B"
_LAYERS = 1
# Only what surrounds the experts: a real vocabulary would double the demo's time.
_VOCABULARY = 4096
_RESIDENCIES = ("programs", "slots", "resident")
_MISSES = 24
_DECODED = 48
_PHONE_RAM = 512 << 20
_PHONE_FLASH_MBPS = 800


@cli_command(
    "moe-mobile demo",
    "moe-mobile demo --dir /data/demo --json",
    "moe-mobile demo --quick                # the trained model on this machine only",
)
@click.option(
    "--dir",
    "folder",
    type=PathType(file_okay=False),
    default=DEFAULT_FOLDER,
    help="Where to write bundles; a second run uses them again. Takes about 1 GB.",
)
@click.option("--quick", is_flag=True, help="Leave out experts of real size, and the phone.")
@json_option
def command(folder: pathlib.Path, quick: bool, as_json: bool) -> None:
    """Export a small trained Mixture-of-Experts model, prepare it, and generate text while its
    experts stream from disk; then measure, on experts of real size, what swapping the bytes of a
    slot gains over loading a program; then the same on a virtual phone, with a report.

    Every number printed is measured by this run.
    """
    show = not as_json
    # The folders are named after the experts' format.
    answer: dict[str, Any] = {"trained": trained(folder / "trained-8da4w", show)}
    if not quick:
        from moe_mobile.export import RandomWeights

        source = RandomWeights(_PRESET, layers=_LAYERS, vocab_size=_VOCABULARY)
        _title(f"4. Experts of real size: {_LAYERS} layer of {_PRESET}'s dimensions", show)
        answer["real_size"] = real_size(source, folder / "real-size-8da4w", show)
        _title("5. The trained model on a virtual phone, through adb, and a report", show)
        answer["phone"] = on_a_phone(folder / "trained-8da4w", folder, show)
    if as_json:
        echo_json(answer)


def trained(bundle: pathlib.Path, show: bool) -> dict[str, Any]:
    """Export, prepare and run the trained model; what `generate --json` prints."""
    from moe_mobile.demo import heldout_text

    _title("1. Export a trained model: one ExecuTorch program per expert, experts in 4 bits", show)
    facts = exported_for_the_demo("demo", bundle, show)
    if show:
        click.echo(summary(facts))

    _title("2. Prepare it: pack the weights as this CPU wants them", show)
    _prepare(bundle, show)

    _title("3. Generate with half of the experts in memory (the model continues at ▸)", show)
    prompt = _passage(heldout_text())
    if show:
        click.echo(click.style(prompt, dim=True) + " ▸", nl=False)
    sampling = Sampling(max_new_tokens=_NEW_TOKENS, temperature=0.7, top_p=0.9, seed=1)
    with opened(bundle, sampling, {"cache": _CACHE}, show=show) as model:
        answer = model.answer(prompt_of(bundle, prompt))
    if show:
        click.echo(statistics_line(answer))
    return answer


def real_size(source: SourceLike, bundle: pathlib.Path, show: bool) -> dict[str, Any]:
    """Export `source`, and measure misses and decoding with and without slots."""
    facts = exported_for_the_demo(source, bundle, show)
    if show:
        experts = facts["moe"]["layers"] * facts["moe"]["num_experts"]
        expert = size(facts["memory"]["expert_bytes"])
        click.echo(f"{experts} experts of {expert}, {facts['moe']['top_k']} used per token")
    _prepare(bundle, show)
    misses = _misses(bundle)
    rows = [_decode(bundle, residency) for residency in _RESIDENCIES]
    answer = {
        "bundle_hash": facts["hash"],
        "misses": misses,
        "decode": {row.config["residency"]: row.as_dict() for row in rows},
    }
    if show:
        click.echo()
        click.echo(_comparison(misses, rows))
    return answer


def on_a_phone(bundle: pathlib.Path, folder: pathlib.Path, show: bool) -> dict[str, Any]:
    """Measure a bundle on a virtual phone as `bench --device` does, and report it.

    Says why, if this machine cannot run a virtual phone.
    """
    from moe_mobile.cli.bench import command as bench
    from moe_mobile.cli.report import command as report
    from moe_mobile.virtual_phone import PhoneSettings, start

    results, page = folder / "phone.jsonl", folder / "phone.html"
    try:
        phone = start(PhoneSettings(ram=_PHONE_RAM, flash_mbps=_PHONE_FLASH_MBPS))
    except (UnsupportedError, DeviceError) as error:
        if show:
            click.echo(f"left out: {error}")
        return {"left_out": str(error)}
    measure = [str(bundle), "--device", phone.serial, "-p", "32", "-n", "64", "-r", "3"]
    measure += ["--cache", "25%,50%,100%", "--warmup", "4", "--out", str(results)]
    with contextlib.redirect_stdout(sys.stdout if show else sys.stderr):
        try:
            remove_results(results)
            bench.main(measure, standalone_mode=False)
            click.echo()
            title = "The demo model on a virtual phone"
            arguments = [str(results), "-o", str(page), "--title", title]
            report.main(arguments, standalone_mode=False)
        finally:
            phone.stop()
    return {"serial": phone.serial, "results": str(results), "report": str(page)}


def remove_results(file: pathlib.Path) -> None:
    """Those of an earlier run, if there are any. Raises IoError or ReadOnlyError."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(error, file) from error


def _misses(bundle: pathlib.Path) -> dict[str, Any]:
    """Medians in ms of the parts of a miss, from alternating measurements of the same experts."""
    with ProgressBar() as progress, Runner() as runner:
        settings = EngineSettings.of(_CACHE, context=64).as_request()
        runner.request("open", bundle=str(bundle), settings=settings, progress=progress)
        samples = runner.request("measure_misses", count=_MISSES)

    def median(name: str) -> float:
        return percentile(samples[name], 50) / 1e6

    pairs = zip(samples["slot_miss_ns"], samples["slot_rest_ns"], strict=True)
    reads = [miss - rest for miss, rest in pairs]
    return {
        "count": _MISSES,
        "slots": {"read_ms": percentile(reads, 50) / 1e6, "rest_ms": median("slot_rest_ns")},
        "programs": {"read_ms": median("program_read_ns"), "rest_ms": median("program_load_ns")},
        "forward_ms": median("forward_ns"),
    }


def _decode(bundle: pathlib.Path, residency: str) -> Row:
    with ProgressBar() as progress:
        return run_test(
            BenchTest(0, _DECODED),
            EngineSettings.of(_CACHE, reading=residency),
            bundle_facts(bundle),
            repetitions=3,
            progress=progress,
        )


def _comparison(misses: dict[str, Any], rows: list[Row]) -> str:
    lines = []
    names = ("load a program per miss", "swap a slot per miss", "everything in memory")
    for name, row in zip(names, rows, strict=True):
        miss = misses.get(row.config["residency"])
        lines.append(
            [
                name,
                f"{miss['read_ms']:.2f} ms" if miss else "-",
                f"{miss['rest_ms']:.2f} ms" if miss else "-",
                f"{row.avg_ts:.1f} ± {row.stddev_ts:.1f}",
                percent(row.hit_rate),
                f"{row.mib_read_per_token:.1f} MiB",
            ]
        )
    header = ["", "reading", "rest of a miss", "tokens/s", "cache hits", "read per token"]
    programs, slots, _ = rows
    return (
        table(header, lines)
        + f"\n\nSlots decode {slots.avg_ts / programs.avg_ts:.1f} times as fast at the same cache "
        f"({_CACHE} of the experts); running an expert takes {misses['forward_ms']:.2f} ms.\n"
        f"Medians of {misses['count']} misses, {'O_DIRECT' if slots.direct_io else 'buffered'} "
        f"reads. Random weights route unevenly: a real model's share of hits differs.\n"
        f"`make bench` measures more, on four such layers."
    )


def exported_for_the_demo(source: SourceLike, bundle: pathlib.Path, show: bool) -> dict[str, Any]:
    """The bundle's facts; it is exported unless it is there and was made of this source."""
    from moe_mobile.bundle import inspect_bundle
    from moe_mobile.export import export_bundle

    if (bundle / "bundle.json").is_file():
        try:
            facts = inspect_bundle(bundle)
        except MoeMobileError:
            facts = None  # an older version's: made again
        if facts is not None and _is_current(source, bundle, facts):
            if show:
                click.echo(f"{bundle} is there from an earlier run")
            return facts
    began = time.monotonic()
    with ProgressBar() as progress:
        export_bundle(source, bundle, DEFAULT_QUANT, overwrite=True, progress=progress)
    if show:
        click.echo(f"exported in {time.monotonic() - began:.0f} s")
    return inspect_bundle(bundle)


def _is_current(source: SourceLike, bundle: pathlib.Path, facts: dict[str, Any]) -> bool:
    """Whether this version made the bundle, of the source as it is now, in the default
    quantization."""
    from moe_mobile import __version__
    from moe_mobile.demo import checkpoint_dir
    from moe_mobile.model.source import open_model

    provenance = facts["provenance"]
    newest = max(file.stat().st_mtime for file in checkpoint_dir().iterdir())
    return bool(
        provenance.get("source") == open_model(source).label
        and provenance.get("moe_mobile") == __version__
        and facts["quantization"]["name"] == DEFAULT_QUANT
        and facts["delegate"]["executorch"] == executorch_version()
        and (source != "demo" or (bundle / "bundle.json").stat().st_mtime > newest)
    )


def _prepare(bundle: pathlib.Path, show: bool) -> None:
    began = time.monotonic()
    with ProgressBar() as progress, Runner() as runner:
        answer = runner.request("prepare", bundle=str(bundle), progress=progress)
    if not show:
        return
    if answer["already_prepared"]:
        click.echo("prepared by an earlier run")
    else:
        click.echo(
            f"packed {answer['experts']} experts, {size(answer['bytes_written'])}, "
            f"in {time.monotonic() - began:.1f} s"
        )


def _passage(text: str) -> str:
    """The beginning of the held-out text, to the end of a word."""
    start = text[:_PROMPT_CHARACTERS].rstrip()
    passage = start[: max(start.rfind(" "), start.rfind("\n"))]
    if not passage:
        raise CheckpointError("the held-out text of the demo model is empty")
    return passage


def _title(text: str, show: bool) -> None:
    if show:
        click.echo("\n" + click.style(text, bold=True))
        sys.stdout.flush()
