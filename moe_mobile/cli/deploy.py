# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile deploy`."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
from typing import Any

import click

from moe_mobile.base.text import size
from moe_mobile.cli.errors import format_error
from moe_mobile.cli.options import (
    bundle_argument,
    devices_options,
    echo_json,
    examples,
    json_option,
)
from moe_mobile.cli.progress import PhoneBar, say
from moe_mobile.cli.tuned import Tuned
from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.deploy.deploy import Deployed
from moe_mobile.device.interface import Device
from moe_mobile.device.select import ANY, Opened, open_devices
from moe_mobile.errors import CancelledError, MoeMobileError

_POLL_S = 0.2


@click.command(
    epilog=examples(
        "moe-mobile deploy olmoe                        # to the one phone that is connected",
        "moe-mobile deploy olmoe --device 192.168.1.23:5555 --prepare",
        "moe-mobile deploy olmoe --replace --consume    # for a phone with little room",
        "moe-mobile deploy olmoe --all --prune --json",
        "moe-mobile deploy olmoe --settings olmoe.json  # what `tune` chose goes along",
    )
)
@bundle_argument
@devices_options
@click.option("--prepare", is_flag=True, help="Pack the weights there right after.")
@click.option(
    "--consume",
    is_flag=True,
    help="Prepare, and delete each shard of experts there once it is packed.",
)
@click.option("--replace", is_flag=True, help="Delete other bundles there first, to make room.")
@click.option(
    "--prune", is_flag=True, help="Delete other bundles, engines, packed weights afterwards."
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=pathlib.Path),
    metavar="FILE",
    help="Send along what `tune` chose for this bundle, for programs on the phone.",
)
@json_option
def command(
    bundle: pathlib.Path,
    devices: tuple[str, ...],
    every: bool,
    prepare: bool,
    consume: bool,
    replace: bool,
    prune: bool,
    settings_file: pathlib.Path | None,
    as_json: bool,
) -> int:
    """Send a bundle and the engine to phones, and verify every byte there.

    Files are known by their SHA-256: what a phone has is not sent again, and what was cut goes on
    where it stopped. Other bundles stay usable meanwhile.
    """
    if settings_file is not None:
        Tuned(settings_file, bundle)  # raises for one that is not for it
    opened = open_devices(devices, every=every, otherwise=ANY)
    wish = _Wish(bundle, settings_file, prepare, consume, replace, prune, as_json)
    # `-s any -s X` are one device, which may also have failed when it was opened as X.
    if len(opened.by_serial) == 1 and not opened.failed:
        answers = [_deploy(_phone(opened.devices[0]), wish, PhoneBar())]
        errors: list[MoeMobileError] = []
    else:
        answers, errors = _deploy_all(opened, wish)
    if as_json:
        echo_json({"deployments": answers})
    return errors[0].exit_code if errors else 0


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What the options say."""

    bundle: pathlib.Path
    settings: pathlib.Path | None
    prepare: bool
    consume: bool
    replace: bool
    prune: bool
    as_json: bool


def _deploy_all(opened: Opened, wish: _Wish) -> tuple[list[dict[str, Any]], list[MoeMobileError]]:
    """To all at once; one that fails does not stop the others. Answers, and errors among them.

    An interruption ends what runs everywhere.
    """

    def run(row: int, device: AdbDevice) -> dict[str, Any] | MoeMobileError:
        try:
            return _deploy(device, wish, PhoneBar(device.serial, row))
        except MoeMobileError as error:
            return failed(error)

    def failed(error: MoeMobileError) -> MoeMobileError:
        if not isinstance(error, CancelledError):  # which is said once, of all
            say(format_error(error), err=True)
        return error

    ready = [_phone(device) for device in opened.devices]
    ended: dict[str, dict[str, Any] | MoeMobileError] = {
        serial: failed(error) for serial, error in opened.failed.items()
    }
    with concurrent.futures.ThreadPoolExecutor(max(1, len(ready))) as pool:
        running = {one.serial: pool.submit(run, row, one) for row, one in enumerate(ready)}
        try:
            while concurrent.futures.wait(running.values(), _POLL_S).not_done:
                pass
        except BaseException:
            for device in ready:
                device.abort()
            raise
    ended |= {serial: future.result() for serial, future in running.items()}
    answers, errors = [], []
    for serial in opened.by_serial:
        end = ended[serial]
        if isinstance(end, MoeMobileError):
            errors.append(end)
            end = {"device": serial, "error": end.as_dict()}
        answers.append(end)
    return answers, errors


def _phone(device: Device) -> AdbDevice:
    assert isinstance(device, AdbDevice)
    return device


def _deploy(device: AdbDevice, wish: _Wish, bar: PhoneBar) -> dict[str, Any]:
    with bar:
        deployed = device.deploy(
            wish.bundle,
            settings=wish.settings,
            consume=wish.consume,
            replace=wish.replace,
            prune=wish.prune,
            progress=bar,
        )
    answer: dict[str, Any] = {"device": device.serial, **dataclasses.asdict(deployed)}
    if not wish.as_json:
        say(_line(device.serial, deployed))
    if deployed.other_stores and not wish.prune:
        say(
            f"note: {device.serial} has packed weights of another engine "
            f"({', '.join(deployed.other_stores)}): they are packed anew, and what was consumed "
            "was sent again. --prune deletes the old ones",
            err=True,
        )
    if wish.prepare or wish.consume:
        answer["prepared"] = _prepare(device, deployed, wish, bar)
    return answer


def _line(serial: str, deployed: Deployed) -> str:
    if deployed.was_complete:
        return f"{serial}: all {size(deployed.bytes)} are there already: {deployed.path}"
    rate = deployed.bytes_sent / deployed.seconds if deployed.seconds else 0
    return (
        f"{serial}: sent {size(deployed.bytes_sent)} of {size(deployed.bytes)} in "
        f"{deployed.seconds:.1f} s ({size(round(rate))}/s), verified: {deployed.path}"
    )


def _prepare(device: AdbDevice, deployed: Deployed, wish: _Wish, bar: PhoneBar) -> dict[str, Any]:
    with bar, device.runner() as runner:
        answer = runner.request("prepare", bundle=deployed.path, consume=wish.consume, progress=bar)
    if not wish.as_json:
        say(
            f"{device.serial}: already prepared"
            if answer["already_prepared"]
            else f"{device.serial}: packed {answer['experts']} experts"
        )
    return answer
