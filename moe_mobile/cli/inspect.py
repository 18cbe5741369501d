# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile inspect`."""

from __future__ import annotations

import pathlib

import click

from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.describe import summary
from moe_mobile.cli.options import (
    bundle_argument,
    echo_json,
    json_option,
    packed_dir_option,
)


@cli_command("moe-mobile inspect olmoe", "moe-mobile inspect olmoe --json")
@bundle_argument
@packed_dir_option
@json_option
def command(bundle: pathlib.Path, packed_dir: pathlib.Path | None, as_json: bool) -> None:
    """Show what a bundle is: model, quantization, programs, sizes, and the memory it needs.

    Reads the manifest, the lengths of files and the seals of packed weights; `moe-mobile verify`
    reads every byte.
    """
    from moe_mobile.bundle import inspect_bundle
    from moe_mobile.bundle.packed import packed_stores, refusal

    facts = inspect_bundle(bundle, packed_dir)
    facts["packed"] = [
        {"key": store.name, "bytes": size, "refused": refusal(store)}
        for store, size in packed_stores(bundle, packed_dir)
    ]
    if as_json:
        echo_json(facts)
    else:
        click.echo(summary(facts))
