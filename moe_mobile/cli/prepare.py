# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile prepare`."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import click

from moe_mobile.base.text import size
from moe_mobile.bundle.unfinished import require_bundle
from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.options import (
    bundle_argument,
    device_option,
    echo_json,
    json_option,
    packed_dir_option,
)
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.device.select import open_device


@cli_command(
    "moe-mobile prepare olmoe",
    "moe-mobile prepare olmoe --consume          # delete each shard once it is packed",
    "moe-mobile prepare olmoe --packed-dir /fast/disk/olmoe-packed",
    "moe-mobile prepare olmoe --device any       # on the phone",
)
@bundle_argument
@packed_dir_option
@click.option(
    "--consume",
    is_flag=True,
    help="Delete each shard of experts once its packed bytes are on disk. The bundle then runs "
    "on this kind of machine only.",
)
@device_option
@json_option
def command(
    bundle: pathlib.Path,
    packed_dir: pathlib.Path | None,
    consume: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Pack a bundle's weights in the layout of the CPU that runs it, so that a miss is one read.

    Opening a bundle does this too, if it is needed. An interrupted run continues where it stopped.
    """
    require_bundle(bundle)
    place = open_device(device)
    with ProgressBar() as progress:
        folder = place.place(bundle, progress)
        with place.runner() as runner:
            answer = runner.request(
                "prepare",
                bundle=folder,
                packed_dir=None if packed_dir is None else str(packed_dir),
                consume=consume,
                progress=progress,
            )
    if as_json:
        echo_json(answer)
        return
    if answer["already_prepared"]:
        click.echo(f"already prepared: {answer['packed_dir']}")
    else:
        click.echo(
            f"packed {answer['experts']} experts, wrote {size(answer['bytes_written'])}: "
            f"{answer['packed_dir']}"
        )
    if answer["shards_deleted"]:
        click.echo(f"{deleted(answer)}. The experts are in that folder only, for this kind of CPU")


def deleted(answer: Mapping[str, Any]) -> str:
    """What a ``prepare`` with ``consume`` says it deleted."""
    number = answer["shards_deleted"]
    shards = "1 shard" if number == 1 else f"{number} shards"
    return f"deleted {shards} ({size(answer['bytes_deleted'])})"
