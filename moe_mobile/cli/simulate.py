# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile simulate`."""

from __future__ import annotations

import csv
import functools
import io
import math
import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from moe_mobile.base.routings import split_routings
from moe_mobile.base.text import percent, size, table
from moe_mobile.cli.commands import cli_command, group_of, option
from moe_mobile.cli.options import (
    BUNDLE,
    OUTPUT,
    SIZE,
    LabOptions,
    device_option,
    echo_json,
    json_option,
)
from moe_mobile.cli.output import write_output
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.writable import check_outputs, check_replaceable, check_writable
from moe_mobile.device.select import open_device
from moe_mobile.errors import IoError, UsageError

if TYPE_CHECKING:
    from moe_mobile.bundle.manifest import Manifest
    from moe_mobile.routing.flash import Flash
    from moe_mobile.routing.profile import CacheProfile
    from moe_mobile.routing.replay import Model, Replay, Replayed

_STATES = ("cold", "prompt")
"""Values of --initial-cache that are not files."""

_MEASURED = "measured"
_BY_FLASH = ("flash_ms_per_token", "expert_ms_per_token")


@dataclass(frozen=True)
class _Replayed(LabOptions):
    """The routings and caches for traces."""

    capacity: str = option(
        "--capacity",
        default="25%,50%,75%",
        show_default=True,
        metavar="LIST",
        help="What the cache holds: shares of the experts, or experts per layer.",
    )
    eviction: str = option(
        "--eviction",
        default="lru",
        show_default=True,
        help="What leaves the cache: lru, lfu, lfu:DECAY, or belady with exact routing.",
    )
    initial_cache: str = option(
        "--initial-cache",
        default="cold",
        show_default=True,
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
        return None if self.initial_cache in _STATES else pathlib.Path(self.initial_cache)

    def initial(self) -> str | CacheProfile:
        """Raises what reading a profile does."""
        return self.initial_cache if self.file is None else _profile(self.initial_cache)


@dataclass(frozen=True)
class _Timing:
    """The figures from which times are predicted."""

    expert_bytes: int | None = option(
        "--expert-bytes", type=SIZE, metavar="SIZE", help="Bytes that a load reads."
    )
    bundle: pathlib.Path | None = option(
        "--bundle",
        type=BUNDLE,
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
            found.append(measure_flash(open_device(device), self.bundle, expert_bytes, progress))
        return tuple(dict.fromkeys(found)) or PROFILES


@cli_command(
    "moe-mobile simulate demo.safetensors --belady",
    "moe-mobile simulate demo.safetensors --routing exact,cache-prior:0.2,J=2",
    "moe-mobile simulate olmoe.safetensors --bundle olmoe --capacity 25%,50% --flash ufs4.0",
    "moe-mobile simulate chat.st code.st --expert-bytes 2.65MiB --flash 1200 --csv grid.csv",
    "moe-mobile simulate chat.st --save-profile used.json",
    "moe-mobile simulate code.st --initial-cache used.json",
)
@click.argument(
    "traces", metavar="TRACE...", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path)
)
@group_of(_Replayed, "lab")
@group_of(_Timing, "timing")
@device_option
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
    check_replaceable(save_profile)
    # They import numpy: only now, so that --help and wrong options answer at once.
    from moe_mobile.routing.profile import count_uses, write_profile
    from moe_mobile.routing.replay import replay
    from moe_mobile.routing.trace import read_trace

    routings, initial, capacities = split_routings(lab.routings), lab.initial(), lab.capacities()
    expert_bytes, check = timing.expert_bytes, None
    if timing.bundle is not None:
        from moe_mobile.bundle.reader import read_manifest

        manifest = read_manifest(timing.bundle)
        expert_bytes = manifest.memory.expert_bytes
        check = functools.partial(_check_bundle, timing.bundle, manifest)
    with ProgressBar() as progress:
        chips = timing.chips(device, expert_bytes, progress)
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
    rows = [_facts(row, found.model, lab.initial_cache, expert_bytes, chips) for row in found.rows]
    if csv_file is not None:
        write_output(csv_file, _csv_bytes(rows))
    if as_json:
        echo_json(_document(traces, found, rows, expert_bytes, chips))
        return
    click.echo(_describe(found, rows, chips if expert_bytes is not None else ()))
    remarks = _notes(found)
    if expert_bytes is not None:
        remarks.append(
            "ms are of a token's experts: bytes read / flash, then bytes used / DRAM, without "
            f"overlap, latency or the dense layers. An expert has {size(expert_bytes)}."
        )
    for note in remarks:
        click.echo(f"note: {note}")


def _document(
    traces: tuple[pathlib.Path, ...],
    found: Replay,
    rows: list[dict[str, Any]],
    expert_bytes: int | None,
    chips: tuple[Flash, ...],
) -> dict[str, Any]:
    """All of it for scripts."""
    return {
        "traces": [str(path) for path in traces],
        "model": found.model.name,
        "moe_layers": len(found.model.layers),
        "experts": found.model.experts,
        "top_k": found.model.top_k,
        "tokens": found.tokens,
        "sequences": found.sequences,
        "prompt_tokens": found.prompt_tokens,
        "expert_bytes": expert_bytes,
        "flash_bytes_per_second": {chip.name: chip.bytes_per_second for chip in chips},
        "dram_bytes_per_second": {
            chip.name: chip.dram_bytes_per_second
            if math.isfinite(chip.dram_bytes_per_second)
            else None
            for chip in chips
        },
        "rows": rows,
        "notes": _notes(found),
    }


def _profile(file: str) -> CacheProfile:
    from moe_mobile.routing.profile import read_profile

    try:
        return read_profile(file)
    except IoError as error:
        raise IoError(
            error.cause,
            file=error.file,
            setting="--initial-cache",
            remedy=f"Give {', '.join(_STATES)} or a file that --save-profile wrote",
        ) from error


def _check_bundle(bundle: pathlib.Path, manifest: Manifest, model: Model) -> None:
    routed = (manifest.moe_layers, manifest.moe.num_experts, manifest.moe.top_k)
    if routed != (model.layers, model.experts, model.top_k):
        raise UsageError(
            f"is not a bundle of the traces' model, {model.name}",
            file=bundle,
            remedy="Name the model's bundle, or give --expert-bytes",
        )


def _facts(
    row: Replayed,
    model: Model,
    initial_cache: str,
    expert_bytes: int | None,
    chips: tuple[Flash, ...],
) -> dict[str, Any]:
    """A row for scripts."""
    bytes = None if expert_bytes is None else row.loads_per_token * expert_bytes
    kept = row.hits + row.loads
    used = None if expert_bytes is None else kept / row.tokens * expert_bytes
    return {
        "routing": row.routing,
        "requested": row.requested,
        "lossy": row.lossy,
        "eviction": row.eviction,
        "pool": row.pool,
        "initial_cache": initial_cache,
        "capacity": row.capacity,
        "capacity_share": row.capacity / model.experts,
        "tokens": row.tokens,
        "hits": row.hits,
        "misses": row.misses,
        "loads": row.loads,
        "dropped": row.dropped,
        "changed": row.changed,
        "evictions": row.evictions,
        "hit_rate": row.hit_rate,
        "loads_per_token_layer": row.loads_per_token_layer,
        "changed_share": row.changed_share,
        "mean_lifetime_tokens": row.mean_lifetime,
        "bytes_per_token": bytes,
        "flash_ms_per_token": {
            chip.name: None if bytes is None else chip.ms(bytes) for chip in chips
        },
        "expert_ms_per_token": {
            chip.name: None if bytes is None or used is None else chip.expert_ms(bytes, used)
            for chip in chips
        },
    }


def _notes(found: Replay) -> list[str]:
    """Notes on the rows, printed with them."""
    model = found.model
    layers = len(model.layers)
    said = list(dict.fromkeys(row.note for row in found.rows if row.note))
    if layers > 1:
        cycle, never, every = model.token_cycle, model.never_hits, layers * model.experts
        said.append(
            f"the LRU cliff: one token uses {cycle} of {every} experts ({percent(cycle / every)}). "
            f"A global LRU of up to {never} ({percent(never / every)}) never hits with exact "
            f"routing, because each token's other layers use {never} between two uses of a layer; "
            f"below {cycle} it can hit only a token's best experts. Such caches are refused here."
        )
    return said


def _routing(row: dict[str, Any]) -> str:
    """Its name, and the requested routing if that became exact routing."""
    routing, asked = str(row["routing"]), str(row["requested"])
    return f"{routing} ({asked})" if routing == "exact" != asked else routing


def _describe(found: Replay, rows: list[dict[str, Any]], chips: tuple[Flash, ...]) -> str:
    """A table of the rows, with predicted times if there are chips."""
    model = found.model
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
    return (
        f"{model.name}: {len(model.layers)} MoE layers, the best {model.top_k} of {model.experts} "
        f"experts; {tokens} in {found.sequences} sequence{several}; initial cache: "
        f"{rows[0]['initial_cache']}; pool: {rows[0]['pool']}\n\n{table(header, cells, left=3)}\n"
    )


def _csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    """The rows for a spreadsheet, a column for each flash."""
    flat = []
    for row in rows:
        values = {}
        for name, value in row.items():
            columns = (
                {f"{name} {chip}": ms for chip, ms in value.items()} if name in _BY_FLASH else {}
            )
            values.update(columns or {name: value})
        flat.append(values)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()
