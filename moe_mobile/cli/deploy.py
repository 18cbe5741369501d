# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile deploy`."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any

import click

from moe_mobile.cli.errors import format_error
from moe_mobile.cli.options import (
    bundle_argument,
    devices_options,
    echo_json,
    examples,
    json_option,
)
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.text import size
from moe_mobile.cli.tuned import Tuned
from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.deploy.deploy import Deployed
from moe_mobile.device.select import ANY, open_devices
from moe_mobile.errors import MoeMobileError


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
    places = open_devices(devices, every=every, otherwise=ANY)
    answers, errors = [], []
    for device in places:
        assert isinstance(device, AdbDevice)
        try:
            answer = _deploy(
                device, bundle, settings_file, prepare, consume, replace, prune, as_json
            )
        except MoeMobileError as error:
            if len(places) == 1:
                raise
            # One that fails does not stop the others.
            errors.append(error)
            click.echo(format_error(error), err=True)
            answer = {"device": device.serial, "error": error.as_dict()}
        answers.append(answer)
    if as_json:
        echo_json({"deployments": answers})
    return errors[0].exit_code if errors else 0


def _deploy(
    device: AdbDevice,
    bundle: pathlib.Path,
    settings: pathlib.Path | None,
    prepare: bool,
    consume: bool,
    replace: bool,
    prune: bool,
    as_json: bool,
) -> dict[str, Any]:
    with _Rate() as progress:
        deployed = device.deploy(
            bundle,
            settings=settings,
            consume=consume,
            replace=replace,
            prune=prune,
            progress=progress,
        )
    answer: dict[str, Any] = {"device": device.serial, **dataclasses.asdict(deployed)}
    if not as_json:
        click.echo(_line(device.serial, deployed))
    if deployed.other_stores and not prune:
        click.echo(
            f"note: {device.serial} has packed weights of another engine "
            f"({', '.join(deployed.other_stores)}): they are packed anew, and what was consumed "
            "was sent again. --prune deletes the old ones",
            err=True,
        )
    if prepare or consume:
        answer["prepared"] = _prepare(device, deployed, consume, as_json)
    return answer


class _Rate(ProgressBar):
    """The bar, with MiB per second beside it."""

    _began: float | None = None
    _first = 0

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        if done == 0 or self._began is None:
            self._began, self._first = now, done
        elif now > self._began:
            detail = f"{(done - self._first) / (now - self._began):.0f} MiB/s"
        super().__call__(stage, done, total, detail)


def _line(serial: str, deployed: Deployed) -> str:
    if deployed.was_complete:
        return f"{serial}: all {size(deployed.bytes)} are there already: {deployed.path}"
    rate = deployed.bytes_sent / deployed.seconds if deployed.seconds else 0
    return (
        f"{serial}: sent {size(deployed.bytes_sent)} of {size(deployed.bytes)} in "
        f"{deployed.seconds:.1f} s ({size(round(rate))}/s), verified: {deployed.path}"
    )


def _prepare(device: AdbDevice, deployed: Deployed, consume: bool, as_json: bool) -> dict[str, Any]:
    with ProgressBar() as progress, device.runner() as runner:
        answer = runner.request("prepare", bundle=deployed.path, consume=consume, progress=progress)
    if not as_json:
        click.echo(
            f"{device.serial}: already prepared"
            if answer["already_prepared"]
            else f"{device.serial}: packed {answer['experts']} experts"
        )
    return answer
