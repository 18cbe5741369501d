# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile deploy`."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
from typing import Any

from moe_mobile.base.text import size
from moe_mobile.bundle.unfinished import require_bundle
from moe_mobile.cli.commands import again, cli_command, group_of, option, with_options
from moe_mobile.cli.errors import format_error
from moe_mobile.cli.options import (
    DevicesOptions,
    bundle_argument,
    echo_json,
    json_option,
    phones_help,
)
from moe_mobile.cli.prepare import deleted
from moe_mobile.cli.progress import ProgressBar, say
from moe_mobile.cli.tuned import Tuned
from moe_mobile.cli.types import PATH
from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.deploy.attempt import Deployed
from moe_mobile.device.interface import Device
from moe_mobile.device.select import ANY, Opened
from moe_mobile.errors import CancelledError, MoeMobileError

_POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class _Phones(DevicesOptions):
    """Where it is sent."""

    devices: tuple[str, ...] = again(DevicesOptions, "devices", help=phones_help(ANY))


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What is sent, and what happens before and after."""

    prepare: bool = option("--prepare", is_flag=True, help="Then pack the weights on the phone.")
    consume: bool = option(
        "--consume",
        is_flag=True,
        help="Prepare, and delete each shard of experts on the phone once it is packed.",
    )
    replace: bool = option(
        "--replace", is_flag=True, help="First delete other bundles on the phone, to make room."
    )
    prune: bool = option(
        "--prune", is_flag=True, help="Afterwards delete other bundles, engines and packed weights."
    )
    settings: pathlib.Path | None = option(
        "--settings",
        type=PATH,
        metavar="FILE",
        help="Also send these settings, which `tune` wrote for this bundle, for programs on the "
        "phone.",
    )


@dataclasses.dataclass(frozen=True)
class _Job:
    """A bundle on its way to phones."""

    bundle: pathlib.Path
    wish: _Wish
    as_json: bool


@cli_command(
    "moe-mobile deploy olmoe                        # to the one phone that is connected",
    "moe-mobile deploy olmoe --device 192.168.1.23:5555 --prepare",
    "moe-mobile deploy olmoe --replace --consume    # for a phone with little room",
    "moe-mobile deploy olmoe --all --prune --json",
    "moe-mobile deploy olmoe --settings olmoe.json  # what `tune` chose goes along",
)
@bundle_argument
@group_of(_Phones, "devices")
@group_of(_Wish, "wish")
@json_option
def command(
    bundle: pathlib.Path,
    devices: _Phones,
    wish: _Wish,
    as_json: bool,
) -> int:
    """Send a bundle and the engine to phones, and verify every byte there.

    Files are identified by their SHA-256: what a phone already has is not sent again, and an
    interrupted file continues where it stopped. Other bundles stay usable.
    """
    require_bundle(bundle)
    if wish.settings is not None:
        Tuned(wish.settings, bundle)  # raises for one that is not for it
    opened = devices.open(otherwise=ANY)
    job = _Job(bundle, wish, as_json)
    # `-s any -s X` are one device, which may also have failed when it was opened as X.
    if len(opened.by_serial) == 1 and not opened.failed:
        answers = [_deploy(_phone(opened.devices[0]), job, ProgressBar())]
        errors: list[MoeMobileError] = []
    else:
        answers, errors = _deploy_all(opened, job)
    if as_json:
        echo_json({"deployments": answers})
    return errors[0].exit_code if errors else 0


def _deploy_all(opened: Opened, job: _Job) -> tuple[list[dict[str, Any]], list[MoeMobileError]]:
    """To all at once; one that fails does not stop the others. Answers, and errors among them.

    An interruption ends what runs everywhere.
    """

    def run(row: int, device: AdbDevice) -> dict[str, Any] | MoeMobileError:
        try:
            return _deploy(device, job, ProgressBar(name=device.serial, row=row))
        except MoeMobileError as error:
            return failed(error)

    def failed(error: MoeMobileError) -> MoeMobileError:
        error = with_options(error, command)
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


def _deploy(device: AdbDevice, job: _Job, bar: ProgressBar) -> dict[str, Any]:
    with bar:
        deployed = device.deploy(
            job.bundle,
            settings=job.wish.settings,
            consume=job.wish.consume,
            replace=job.wish.replace,
            prune=job.wish.prune,
            progress=bar,
        )
    answer: dict[str, Any] = {"device": device.serial, **dataclasses.asdict(deployed)}
    if not job.as_json:
        say(_line(device.serial, deployed))
    if deployed.other_stores and not job.wish.prune:
        say(
            f"note: {device.serial} has packed weights of another engine "
            f"({', '.join(deployed.other_stores)}): they are packed again, and what was consumed "
            "was sent again. --prune deletes the old ones",
            err=True,
        )
    if job.wish.prepare or job.wish.consume:
        answer["prepared"] = _prepare(device, deployed, job, bar)
    return answer


def _line(serial: str, deployed: Deployed) -> str:
    if deployed.was_complete:
        return f"{serial}: all {size(deployed.bytes)} are there already: {deployed.path}"
    rate = deployed.bytes_sent / deployed.seconds if deployed.seconds else 0
    return (
        f"{serial}: sent {size(deployed.bytes_sent)} of {size(deployed.bytes)} in "
        f"{deployed.seconds:.1f} s ({size(round(rate))}/s), verified: {deployed.path}"
    )


def _prepare(device: AdbDevice, deployed: Deployed, job: _Job, bar: ProgressBar) -> dict[str, Any]:
    with bar, device.runner() as runner:
        answer = runner.request(
            "prepare", bundle=deployed.path, consume=job.wish.consume, progress=bar
        )
    if not job.as_json:
        done = f"packed {answer['experts']} experts"
        if answer["already_prepared"]:
            done = "already prepared"
        if answer["shards_deleted"]:
            done += f", {deleted(answer)}"
        say(f"{device.serial}: {done}")
    return answer
