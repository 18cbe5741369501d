# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile devices`."""

from __future__ import annotations

import pathlib
from typing import Any

import click

from moe_mobile.base.text import size, table
from moe_mobile.bundle import read_manifest
from moe_mobile.bundle.manifest import Memory
from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.cli.types import PATH
from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.adb_server import AdbServer, is_network_serial, unusable
from moe_mobile.device.deploy.package import Package, bundle_package
from moe_mobile.device.interface import DeviceFacts
from moe_mobile.device.state import THERMAL_STATUSES
from moe_mobile.errors import MoeMobileError, UsageError


@cli_command(
    "moe-mobile devices",
    "moe-mobile devices olmoe                # and whether this bundle fits",
    "moe-mobile devices --connect 192.168.1.23:5555 --json",
)
@click.argument("bundle", type=PATH, required=False)
@click.option("--connect", metavar="HOST:PORT", help="Connect to a phone over Wi-Fi first.")
@json_option
def command(bundle: pathlib.Path | None, connect: str | None, as_json: bool) -> None:
    """List the devices that adb knows, with the facts that decide how well a model runs on them.

    A bundle fits if the device has room for it and its packed weights, and memory for the dense
    weights and one token's experts.
    """
    wanted = None if bundle is None else (bundle_package(bundle), read_manifest(bundle).memory)
    server = AdbServer()
    if connect is not None:
        if not is_network_serial(connect):
            raise UsageError(
                f"{connect!r} is not HOST:PORT",
                setting="--connect",
                remedy="The phone's settings show the port, next to `Wireless debugging`; after "
                "`adb tcpip 5555` it is 5555",
            )
        server.require(connect)
    rows = [_row(server, serial, state, wanted) for serial, state in server.listed()]
    if as_json:
        echo_json({"devices": rows})
    elif rows:
        click.echo(_text(rows))
    else:
        click.echo("no device is connected; `moe-mobile virtual-phone start` starts a virtual one")


def _row(
    server: AdbServer, serial: str, state: str, wanted: tuple[Package, Memory] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"serial": serial, "state": state}
    if state != "device":
        return row | {"problem": _problem(unusable(serial, state))}
    device = AdbDevice(server, serial)
    try:
        facts = device.facts()
        fits = {} if wanted is None else {"fits": _fits(facts, device, *wanted)}
    except MoeMobileError as error:  # of this device; the others are listed all the same
        return row | {"problem": _problem(error)}
    return row | facts.as_dict() | fits


def _problem(error: MoeMobileError) -> str:
    """What is wrong with a device, without its serial, which is in the next column."""
    return str(error.replaced(setting=None))


def _fits(
    facts: DeviceFacts, device: AdbDevice, package: Package, memory: Memory
) -> dict[str, Any]:
    """What the bundle needs, in bytes, and whether the device has it; None if that is unknown."""
    needed_memory = memory.dense_bytes + memory.token_cycle_bytes
    needed_space = device.space_needed(package)
    return {
        "space": _enough(facts.free_bytes, needed_space),
        "needed_space_bytes": needed_space,
        "memory": _enough(facts.available_bytes, needed_memory),
        "needed_memory_bytes": needed_memory,
    }


def _enough(there: int | None, needed: int) -> bool | None:
    return None if there is None else needed <= there


def _text(rows: list[dict[str, Any]]) -> str:
    usable = [row for row in rows if "problem" not in row]
    blocks = []
    if usable:
        header = ["serial", "model", "soc", "abi", "Android", "memory", "free", "page", "cores",
                  "thermal"]  # fmt: skip
        if "fits" in usable[0]:
            header.append("fits")
        blocks.append(table(header, [_cells(row) for row in usable], left=len(header)))
    blocks += [f"{row['serial']}  {row['state']}: {row['problem']}" for row in rows
               if "problem" in row]  # fmt: skip
    return "\n".join(blocks)


def _cells(row: dict[str, Any]) -> list[str]:
    cores = " + ".join(
        f"{len(cluster['cpus'])} at {cluster['max_khz'] / 1e6:.1f} GHz"
        if cluster["max_khz"]
        else str(len(cluster["cpus"]))
        for cluster in row["clusters"]
    )
    status = row["thermal_status"]
    known = status is not None and 0 <= status < len(THERMAL_STATUSES)
    cells = [
        row["serial"],
        row["model"] + (" (virtual)" if row["virtual"] else ""),
        row["soc"] or "-",
        row["abi"],
        row["android_version"] or "-",
        f"{_size(row['available_bytes'])} of {_size(row['ram_bytes'])}",
        _size(row["free_bytes"]),
        "unknown" if row["page_size"] is None else f"{row['page_size'] // 1024} KiB",
        cores or "-",
        THERMAL_STATUSES[status] if known else "-",
    ]
    return [*cells, _verdict(row["fits"])] if "fits" in row else cells


def _size(count: int | None) -> str:
    return "unknown" if count is None else size(count)


def _verdict(fits: dict[str, Any]) -> str:
    """Whether it fits, and if not, or if that is unknown, because of what."""
    for answer, word in ((False, "no"), (None, "unknown")):
        names = [name for name in ("space", "memory") if fits[name] is answer]
        if names:
            return f"{word}: {' and '.join(names)}"
    return "yes"
