# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile simulate`."""

from __future__ import annotations

import csv
import functools
import io
import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from moe_mobile.base.outputs import write_output
from moe_mobile.base.routings import split_routings
from moe_mobile.base.text import percent, size, table
from moe_mobile.cli.commands import again, cli_command, group_of, option
from moe_mobile.cli.options import (
    CacheOptions,
    LabOptions,
    echo_json,
    json_option,
    phone_option,
    profile_path,
    require_profile,
)
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.types import OUTPUT, PATH, SIZE
from moe_mobile.cli.writable import check_outputs, check_writable
from moe_mobile.errors import UsageError

if TYPE_CHECKING:
    from moe_mobile.bundle.manifest import Manifest
    from moe_mobile.routing.facts import MoeFacts
    from moe_mobile.routing.flash import Flash, Timing
    from moe_mobile.routing.profile import CacheProfile
    from moe_mobile.routing.replay import Replay

_STATES = ("cold", "prompt")
"""Values of --initial-cache that are not files."""

_MEASURED = "measured"


@dataclass(frozen=True)
class _Replayed(LabOptions):
    """The routings and caches for traces."""

    capacity: str = again(LabOptions, "capacity", default="25%,50%,75%")
    eviction: str = again(
        LabOptions,
        "eviction",
        help="What leaves the cache: lru, lfu, lfu:DECAY, or belady with exact routing.",
    )
    initial_cache: str = again(
        CacheOptions,
        "initial_cache",
        default="cold",
        metavar="cold|prompt|FILE",
        help="What is cached when a sequence's decoding begins: nothing, what its prompt left, or "
        "the experts of a profile.",
    )
    belady: bool = option(
        "--belady",
        is_flag=True,
        help="Add the bound: exact routing with a cache that knows the future.",
    )

    @property
    def file(self) -> pathlib.Path | None:
        """Of the profile."""
        return profile_path(self.initial_cache, _STATES)

    def initial(self) -> str | CacheProfile:
        """Raises UsageError for what is neither a state nor a file, and what reading a profile
        does."""
        from moe_mobile.routing.profile import read_profile

        file = require_profile(self.initial_cache, _STATES)
        return self.initial_cache if file is None else read_profile(file)


@dataclass(frozen=True)
class _Timing:
    """The figures from which times are predicted."""

    expert_bytes: int | None = option(
        "--expert-bytes", type=SIZE, metavar="SIZE", help="Bytes that a load reads."
    )
    bundle: pathlib.Path | None = option(
        "--bundle",
        type=PATH,
        help="Take that from this bundle's manifest; the bundle must be of the traces' model.",
    )
    flash: tuple[str, ...] = option(
        "--flash",
        multiple=True,
        metavar="NAME|MBPS",
        help="Predict the time for experts with this flash: ufs3.1, ufs4.0, MB/s of flash or of "
        "flash/DRAM, or measured (by the engine, with --bundle). May be given several times.  "
        "[default: ufs3.1 and ufs4.0, if the size of an expert is known]",
    )

    @property
    def measured(self) -> bool:
        return _MEASURED in self.flash

    def check(self, device: str | None) -> None:
        """Raises UsageError for options that contradict or need each other."""
        if self.expert_bytes is not None and self.bundle is not None:
            raise UsageError(
                "both give the size of an expert",
                setting="--expert-bytes, --bundle",
                remedy="Give one of them",
            )
        if self.expert_bytes == 0:
            raise UsageError(
                "an expert's size must be above 0", setting="--expert-bytes", remedy="Give its size"
            )
        if self.flash and self.expert_bytes is None and self.bundle is None:
            raise UsageError(
                "how long a read takes depends on an expert's size",
                setting="--flash",
                remedy="Add --bundle BUNDLE or --expert-bytes SIZE",
            )
        if self.measured and self.bundle is None:
            raise UsageError(
                "measuring needs a bundle", setting="--flash", remedy="Add --bundle BUNDLE"
            )
        if device is not None and not self.measured:
            raise UsageError(
                "replays run on this machine; only --flash measured uses a phone",
                setting="--device",
                remedy="Add --flash measured, or leave --device out",
            )

    def chips(
        self, device: str | None, expert_bytes: int | None, progress: ProgressBar
    ) -> tuple[Flash, ...]:
        """The flash memories, the one that is measured last. Raises what measuring does."""
        from moe_mobile.routing.flash import PROFILES, measure_flash, parse_flash

        found = [parse_flash(text) for text in self.flash if text != _MEASURED]
        if self.measured and self.bundle is not None and expert_bytes is not None:
            from moe_mobile.device.select import open_device

            found.append(measure_flash(open_device(device), self.bundle, expert_bytes, progress))
        return tuple(dict.fromkeys(found)) or PROFILES


@cli_command(
    "moe-mobile simulate demo.safetensors --belady",
    "moe-mobile simulate demo.safetensors --routing exact,cache-prior:0.2,J=2",
    "moe-mobile simulate olmoe.safetensors --bundle olmoe --cache 25%,50% --flash ufs4.0",
    "moe-mobile simulate chat.st code.st --expert-bytes 2.65MiB --flash 1200 --csv grid.csv",
    "moe-mobile simulate chat.st --save-profile used.json",
    "moe-mobile simulate code.st --initial-cache used.json",
)
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True, type=PATH)
@group_of(_Replayed, "lab")
@group_of(_Timing, "timing")
@phone_option("For --flash measured: the flash of")
@click.option(
    "--save-profile",
    type=OUTPUT,
    metavar="FILE",
    help="Write a profile, the experts of each layer by their use, for --initial-cache; an "
    "existing file is replaced.",
)
@click.option(
    "--csv",
    "csv_file",
    type=OUTPUT,
    help="Also write the rows to this file; an existing one is replaced.",
)
@json_option
def command(
    traces: tuple[pathlib.Path, ...],
    lab: _Replayed,
    timing: _Timing,
    device: str | None,
    save_profile: pathlib.Path | None,
    csv_file: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Replay traces through routings and expert caches, and count hits and reads.

    TRACE is a file that `moe-mobile trace` wrote. Several must be of one model, and are added up.
    What a trace marks as a prompt is routed exactly and not counted. The rest of every sequence is
    decoded by the engine's own code, from the initial cache.

    Predicted milliseconds per token are those of the experts alone: bytes read / the flash's
    bandwidth, then bytes used / the DRAM's. They leave out the latency of requests, computing and
    the dense layers, and assume that nothing overlaps. Rows marked lossy change what the model
    computes; what that costs is not shown.
    """
    timing.check(device)
    inputs = {"TRACE": traces, "--initial-cache": lab.file, "--bundle": timing.bundle}
    check_outputs({"--csv": csv_file, "--save-profile": save_profile}, inputs)
    check_writable(csv_file, replaced=True)
    check_writable(save_profile, replaced=True)
    # They import numpy: only now, so that --help and wrong options answer at once.
    from moe_mobile.routing.flash import Timing
    from moe_mobile.routing.profile import count_uses, write_profile
    from moe_mobile.routing.replay import replay
    from moe_mobile.routing.trace import read_trace

    routings, initial, capacities = split_routings(lab.routings), lab.initial(), lab.capacities()
    expert_bytes, check = timing.expert_bytes, None
    if timing.bundle is not None:
        from moe_mobile.bundle.reader import read_manifest

        manifest = read_manifest(timing.bundle)
        expert_bytes = manifest.memory.expert_bytes
        check = functools.partial(_require_model, timing.bundle, manifest)
    with ProgressBar() as progress:
        predicted = Timing(expert_bytes, timing.chips(device, expert_bytes, progress))
        found = replay(
            traces,
            routings,
            capacities,
            eviction=lab.eviction,
            pool=lab.pool,
            initial_cache=initial,
            belady=lab.belady,
            check=check,
            progress=progress,
        )
    if save_profile is not None:
        profile = count_uses([functools.partial(read_trace, path) for path in traces])
        write_profile(save_profile, profile)
    rows = [
        row.as_dict() | {"initial_cache": lab.initial_cache} | predicted.of(row)
        for row in found.rows
    ]
    if csv_file is not None:
        write_output(csv_file, _csv_bytes(rows))
    if as_json:
        document = {"traces": list(map(str, traces)), **found.as_dict(), **predicted.as_dict()}
        echo_json({**document, "rows": rows, "notes": found.notes})
    else:
        click.echo(_describe(found, rows, predicted))


def _require_model(bundle: pathlib.Path, manifest: Manifest, model: MoeFacts) -> None:
    from moe_mobile.routing.facts import MoeFacts, require_same

    require_same(
        MoeFacts.of_bundle(manifest).compared(),
        model.compared(),
        file=bundle,
        other=f"the traces of {model.name}",
        remedy="Name the model's bundle, or give --expert-bytes",
        but=("model",),
    )


def _routing(row: dict[str, Any]) -> str:
    """Its name, and the requested routing if that became exact routing."""
    routing, asked = str(row["routing"]), str(row["requested"])
    return f"{routing} ({asked})" if routing == "exact" != asked else routing


def _describe(found: Replay, rows: list[dict[str, Any]], predicted: Timing) -> str:
    """A table of the rows, with predicted times if the size of an expert is known, and notes."""
    model = found.model
    chips = predicted.chips if predicted.expert_bytes is not None else ()
    several = "s" if found.sequences > 1 else ""
    header = ["routing", "lossy", "eviction", "per layer", "hits", "loads/token-layer"]
    header += ["changed", "lifetime"]
    drops = any(row["dropped"] for row in rows)
    if drops:
        header.insert(header.index("lifetime"), "dropped")
    if chips:
        header += ["per token", *(f"ms {chip.name}" for chip in chips)]
    cells = []
    for row in rows:
        lifetime = row["mean_lifetime_tokens"]
        cells.append(
            [
                _routing(row),
                "lossy" if row["lossy"] else "",
                row["eviction"],
                f"{row['capacity']} ({100 * row['capacity_share']:.0f} %)",
                percent(row["hit_rate"]),
                f"{row['loads_per_token_layer']:.3f}",
                percent(row["changed_share"]),
                *([percent(row["dropped"] / (row["hits"] + row["misses"]))] * drops),
                "-" if lifetime is None else f"{lifetime:.1f}",
            ]
        )
        if chips:
            waits = row["expert_ms_per_token"].values()
            cells[-1] += [size(round(row["bytes_per_token"])), *(f"{ms:.3f}" for ms in waits)]
    tokens = f"{found.tokens} tokens"
    if found.prompt_tokens:
        tokens += f", {found.prompt_tokens} of them prompts,"
    notes = found.notes
    if predicted.expert_bytes is not None:
        notes.append(
            "ms are of a token's experts: bytes read / flash, then bytes used / DRAM, without "
            "overlap, latency or the dense layers. An expert has "
            f"{size(predicted.expert_bytes)}."
        )
    lines = [
        f"{model.name}: {model.words}; {tokens} in {found.sequences} sequence{several}; initial "
        f"cache: {rows[0]['initial_cache']}; pool: {rows[0]['pool']}",
        "",
        table(header, cells, left=3),
        "",
        *(f"note: {note}" for note in notes),
    ]
    return "\n".join(lines)


def _csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    """The rows for a spreadsheet, a column for each flash."""
    from moe_mobile.routing.flash import BY_FLASH

    flat = []
    for row in rows:
        values = {}
        for name, value in row.items():
            columns = (
                {f"{name} {chip}": ms for chip, ms in value.items()} if name in BY_FLASH else {}
            )
            values.update(columns or {name: value})
        flat.append(values)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()
