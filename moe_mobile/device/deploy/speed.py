# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast `deploy` is beside plain `adb push`: both in turns, whole commands timed.

`adb push` leaves the data in the page cache; `deploy` hashes it and waits until it is on the flash.
Therefore also the time until a `sync` after the push.

python -m moe_mobile.device.deploy.speed BUNDLE --device SERIAL

A virtual phone that was started with --link-mbps has a connection as slow as a cable; one without
has the machine's loopback, which is faster than any.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import click

from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.cli.text import size, table
from moe_mobile.device.adb_server import adb_program
from moe_mobile.device.deploy.inventory import ROOT
from moe_mobile.device.deploy.package import bundle_package
from moe_mobile.device.interface import Device
from moe_mobile.device.select import ANY, open_device
from moe_mobile.errors import DeviceError

_PUSHED = "/data/local/tmp/moe-mobile-push"


def time_command(command: list[str]) -> float:
    """Seconds that a command took. Raises DeviceError where it fails."""
    began = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise DeviceError(f"{' '.join(command)}: {result.stderr.strip()[-500:]}")
    return time.monotonic() - began


def measure(
    bundle: pathlib.Path, device: Device, turns: int
) -> Iterator[tuple[float, float, float]]:
    """Seconds of `deploy`, of `adb push`, and of the latter with a `sync`, in each turn.

    Afterwards the bundle is deployed. Raises DeviceError, and what deploying raises.
    """
    package = bundle_package(bundle)
    serial = device.serial
    deploy = [sys.executable, "-m", "moe_mobile", "deploy", str(bundle), "-s", serial]
    push = [adb_program(), "-s", serial, "push", str(bundle), _PUSHED]
    time_command(deploy)  # brings the engine, and the bundle into the page cache
    for turn in range(turns):
        took: dict[str, float] = {}
        for what in ("deploy", "push") if turn % 2 == 0 else ("push", "deploy"):
            device.shell(f"cd {ROOT}/bundles && rm -rf {package.id} {package.id}.sums; sync")
            if what == "deploy":
                took["deploy"] = time_command(deploy)
            else:
                took["push"] = time_command(push)
                synced = time_command([adb_program(), "-s", serial, "shell", "sync"])
                took["synced"] = took["push"] + synced
                device.shell(f"rm -rf {_PUSHED}")
        yield took["deploy"], took["push"], took["synced"]
    time_command(deploy)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option("-s", "--device", default=ANY, show_default=True, help="adb's serial.")
@click.option("-r", "--turns", type=click.IntRange(min=1), default=3, show_default=True)
@json_option
def main(bundle: pathlib.Path, device: str, turns: int, as_json: bool) -> None:
    """Time `deploy` against `adb push` of the same bundle, in turns."""
    place = open_device(device)
    rounds = list(measure(bundle, place, turns))
    length = bundle_package(bundle).bytes
    if as_json:
        names = ("deploy_s", "push_s", "push_and_sync_s")
        took = [dict(zip(names, one, strict=True)) for one in rounds]
        echo_json({"device": place.serial, "bytes": length, "turns": took})
        return
    rows = [
        [f"{ours:.2f} s", f"{push:.2f} s", f"{synced:.2f} s", f"{push / ours:.2f}",
         f"{synced / ours:.2f}"]
        for ours, push, synced in (*rounds, tuple(map(sum, zip(*rounds, strict=True))))
    ]  # fmt: skip
    click.echo(f"{size(length)} to {place.serial}; ratios above 1: we win; the last row is the sum")
    header = ["deploy", "adb push", "with sync", "push / deploy", "with sync / deploy"]
    click.echo(table(header, rows))


if __name__ == "__main__":
    main()
