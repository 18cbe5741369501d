# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile verify`."""

from __future__ import annotations

import pathlib
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
from moe_mobile.device.interface import Device
from moe_mobile.device.select import open_device
from moe_mobile.errors import BundleCorruptError, IoError


@cli_command(
    "moe-mobile verify olmoe",
    "moe-mobile verify olmoe --packed-dir /fast/disk/olmoe-packed",
    "moe-mobile verify olmoe --device any       # what is on the phone",
    "moe-mobile verify olmoe --json",
)
@bundle_argument
@packed_dir_option
@device_option
@json_option
def command(
    bundle: pathlib.Path, packed_dir: pathlib.Path | None, device: str | None, as_json: bool
) -> None:
    """Read every byte of a bundle, and of its packed weights if it is prepared.

    Files must match the SHA-256 in bundle.json. Packed weights must have been made on this machine
    (or that phone) and match their checksums. These tell damage, not a change by someone who may
    write to the store. What bundle.json itself says is not checked: compare the bundle's hash with
    that of where it comes from.
    """
    require_bundle(bundle)
    with ProgressBar() as progress:
        if device is not None or packed_dir is not None or (bundle / ".packed").is_dir():
            answer = _by_the_engine(open_device(device), bundle, packed_dir, progress)
        else:
            answer = _files(bundle, progress)
    if packed_dir is not None and answer["packed"] is None:
        raise IoError(
            "there are no packed weights of this bundle",
            file=packed_dir,
            remedy="Name the folder that `moe-mobile prepare --packed-dir` wrote",
        )
    if as_json:
        echo_json(answer)
        return
    click.echo(
        f"ok: {answer['files']} files, {size(answer['bytes'])}, match bundle.json, whose hash is "
        f"{answer['hash']}"
    )
    packed = answer["packed"]
    if packed is not None:
        rest = "" if packed["complete"] else "; not all: `moe-mobile prepare` goes on"
        click.echo(
            f"ok: {packed['blobs']} packed weights, {size(packed['bytes'])}, made on this machine"
            f"{rest}"
        )


def _files(bundle: pathlib.Path, progress: ProgressBar) -> dict[str, Any]:
    from moe_mobile.bundle import inspect_bundle, verify_bundle

    digest = verify_bundle(bundle, progress)
    facts = inspect_bundle(bundle)
    return {"hash": digest, "files": facts["num_files"], "bytes": facts["bytes"], "packed": None}


def _by_the_engine(
    device: Device, bundle: pathlib.Path, packed_dir: pathlib.Path | None, progress: ProgressBar
) -> dict[str, Any]:
    """The engine reads packed weights too: it knows which shards they may replace."""
    from moe_mobile.bundle.reader import read_manifest_bytes

    digest = _sha256(read_manifest_bytes(bundle))
    folder = device.locate(bundle)
    with device.runner() as runner:
        try:
            answer = runner.request(
                "verify",
                bundle=folder,
                packed_dir=None if packed_dir is None else str(packed_dir),
                progress=progress,
            )
        except BundleCorruptError as error:
            raise device.distrust(bundle, error) from None
    return {"hash": digest, **answer}


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
