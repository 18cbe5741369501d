# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile info`."""

from __future__ import annotations

import pathlib

import click

from moe_mobile.bundle.unfinished import require_bundle
from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.options import (
    CacheOptions,
    ReadingOptions,
    bundle_argument,
    cache_options,
    device_option,
    echo_json,
    engine_settings,
    json_option,
    reading_options,
)
from moe_mobile.cli.output import notes_of
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.tuned import settings_option
from moe_mobile.device.select import open_device


@cli_command(
    "moe-mobile info olmoe --cache 2GiB          # would that run, and what would it take?",
    "moe-mobile info olmoe --device any --json   # the same on the phone",
)
@bundle_argument
@settings_option
@cache_options
@reading_options
@device_option
@json_option
def command(
    bundle: pathlib.Path,
    cached: CacheOptions,
    reading: ReadingOptions,
    device: str | None,
    as_json: bool,
) -> None:
    """Open a bundle as `generate` would, and show the memory plan, the resolved settings, and how
    experts are read. `moe-mobile inspect` describes a bundle without opening it.
    """
    require_bundle(bundle)
    place = open_device(device)
    with ProgressBar() as progress:
        folder = place.place(bundle, progress)
        with place.runner() as runner:
            info = runner.request(
                "open",
                bundle=folder,
                settings=engine_settings(bundle, reading, cached).as_request(),
                progress=progress,
            )
    info["device"] = place.serial
    if as_json:
        echo_json(info)
        return
    click.echo(info["plan"]["text"])
    shown = info["settings"] | {"cache_profile": ""}  # a long list
    chosen = ", ".join(f"{name} {value}" for name, value in shown.items() if value != "")
    rows = [
        ("device", place.serial),
        ("settings", chosen),
        ("reading", "O_DIRECT" if info["direct_io"] else "buffered"),
        ("threads", info["settings"]["threads"]),
        ("opened in", f"{info['load_ms']:.0f} ms"),
        ("engine", f"moe-mobile {info['moe_mobile']}, ExecuTorch {info['executorch']}"),
        *(("note", note) for note in notes_of(info)),
    ]
    click.echo("\n".join(f"{name:<13} {text}" for name, text in rows))
