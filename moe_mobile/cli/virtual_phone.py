# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile virtual-phone`."""

from __future__ import annotations

from typing import Any

import click

from moe_mobile.base.text import size, table
from moe_mobile.cli.commands import Group, examples
from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.cli.types import SIZE, Choice, Number, Whole
from moe_mobile.errors import DeviceError, UsageError


@click.group(
    cls=Group,
    no_args_is_help=True,
    epilog=examples(
        "moe-mobile virtual-phone start --name small --ram 512MiB",
        "moe-mobile virtual-phone list",
        "moe-mobile virtual-phone misbehave small --thermal-status 3",
        "moe-mobile virtual-phone stop small",
    ),
)
def command() -> None:
    """Run virtual phones: adb devices in a sandbox on this machine.

    adb and everything above it work with them unmodified. They can be short of memory, of space, of
    bandwidth to flash and to adb, and misbehave on demand, as real phones sometimes do.

    They need Linux and packages of Debian or Ubuntu: apt-get install toybox mksh busybox-static
    (and qemu-user-static for --abi arm64-v8a), but no extra of the Python package.
    """


@command.command(
    epilog=examples(
        "moe-mobile virtual-phone start",
        "moe-mobile virtual-phone start --name small --ram 512MiB --flash-mbps 800",
        "moe-mobile virtual-phone start --abi arm64-v8a --flash-size 2GiB --json",
        "moe-mobile virtual-phone start --link-mbps 40   # as over USB 2",
    )
)
@click.option("--name", help="Its name.  [default: phone1, phone2, ...]")
@click.option(
    "--abi",
    type=Choice(("x86_64", "arm64-v8a")),
    help="Its instruction set; arm64-v8a runs through qemu-user.  [default: this machine's]",
)
@click.option(
    "--ram", type=SIZE, help="Memory for its processes; if they take more, one is killed."
)
@click.option(
    "--flash-mbps",
    type=Whole(1, 1_000_000),
    help="Megabytes (not bits) a second that its flash reads and writes.",
)
@click.option("--flash-size", type=SIZE, help="Size of /data.")
@click.option(
    "--link-mbps",
    type=Whole(1, 1_000_000),
    help="Megabytes (not bits) a second that its connection to adb carries each way.",
)
@json_option
def start(as_json: bool, **settings: Any) -> None:
    """Start a phone in the background, connect adb to it and print its serial."""
    from moe_mobile.virtual_phone import PhoneSettings
    from moe_mobile.virtual_phone import start as start_phone

    wanted = PhoneSettings(**settings)
    phone = start_phone(wanted)
    if as_json:
        echo_json(phone.record)
        return
    record = phone.record
    if wanted.ram is not None and record["limit"] != "hard":
        click.echo(f"limit: {record['limit']} (by {record['limiter']})", err=True)
    if wanted.flash_mbps is not None and record["flash_limit"] != "hard":
        click.echo("the flash bandwidth cannot be limited on this machine", err=True)
    click.echo(phone.serial)


@command.command(
    epilog=examples("moe-mobile virtual-phone stop phone1", "moe-mobile virtual-phone stop --all")
)
@click.argument("phone", required=False)
@click.option("--all", "all_of_them", is_flag=True, help="Stop every phone.")
@json_option
def stop(phone: str | None, all_of_them: bool, as_json: bool) -> None:
    """Stop the phone with that name or serial, and delete its files."""
    from moe_mobile.virtual_phone import find, phones

    if (phone is None) != all_of_them:
        raise UsageError(
            "no phone is named" if phone is None else f"{phone} is named, and all phones are",
            setting="PHONE" if phone is None else "--all",
            remedy="Name one phone, or give --all",
        )
    chosen = phones() if phone is None else [find(phone)]
    for one in chosen:
        one.stop()
    if as_json:
        echo_json({"stopped": [one.name for one in chosen]})
    else:
        for one in chosen:
            click.echo(f"stopped {one.name}")


@command.command("list", epilog=examples("moe-mobile virtual-phone list --json"))
@json_option
def list_phones(as_json: bool) -> None:
    """List running phones, with the bytes that went over their connection."""
    from moe_mobile.virtual_phone import phones

    rows = []
    for phone in phones():
        try:
            received, sent = phone.traffic()
        except DeviceError:  # stopped a moment ago
            continue
        rows.append(phone.record | {"received_bytes": received, "sent_bytes": sent})
    if as_json:
        echo_json({"phones": rows})
        return
    if not rows:
        click.echo("no virtual phone runs; moe-mobile virtual-phone start starts one")
        return
    header = ("name", "serial", "abi", "RAM", "limit", "flash", "received", "sent")
    lines = [
        (
            row["name"],
            row["serial"],
            row.get("abi", "-"),
            size(row["ram_bytes"]) if row.get("ram_bytes") else "-",
            row.get("limit", "-"),
            size(row["flash_bytes"]) if row.get("flash_bytes") else "-",
            size(row["received_bytes"]),
            size(row["sent_bytes"]),
        )
        for row in rows
    ]
    click.echo(table(header, lines, left=3))


@command.command(
    epilog=examples(
        "moe-mobile virtual-phone misbehave phone1 --drop-after-received 100MB",
        "moe-mobile virtual-phone misbehave phone1 --reboot 3",
        "moe-mobile virtual-phone misbehave phone1 --thermal-status 3 --battery-level 15",
        "moe-mobile virtual-phone misbehave phone1 --kill moe_runner",
        "moe-mobile virtual-phone misbehave phone1 --full",
    )
)
@click.argument("phone")
@click.option(
    "--drop-after-received", type=SIZE, help="Cut the connection after this many bytes; 0: never."
)
@click.option("--drop-after-sent", type=SIZE, help="The same, for bytes the phone sends.")
@click.option("--drop-again", is_flag=True, default=None, help="Cut every time, not only once.")
@click.option("--unauthorized/--authorized", default=None, help="Refuse every key.")
@click.option("--offline/--online", default=None, help="Accept connections and stay silent.")
@click.option("--full/--not-full", default=None, help="Leave no free byte in /data.")
@click.option("--reboot", type=Number(0, 3600), metavar="SECONDS", help="Be gone for this long.")
@click.option(
    "--thermal-status",
    type=Whole(0, 6),
    help="0 (none) to 6 (shutdown); clocks and temperatures follow.",
)
@click.option("--battery-level", type=Whole(0, 100), help="Percent.")
@click.option("--battery-temperature", type=Number(-40, 120), help="Degrees Celsius.")
@click.option("--charging/--not-charging", default=None, help="Plug the charger in or out.")
@click.option(
    "--kill", metavar="NAME", help="Kill the process of this name, as if for lack of memory."
)
@json_option
def misbehave(phone: str, as_json: bool, **changes: Any) -> None:
    """Make a phone misbehave as real ones do, until this is changed again."""
    from moe_mobile.virtual_phone import Misbehaviour, find

    how = Misbehaviour(**changes)
    if not how.changes():
        raise UsageError("nothing to change", remedy="`--help` lists what is possible")
    one = find(phone)
    one.misbehave(how)
    if as_json:
        echo_json({"name": one.name, "changed": how.changes()})
