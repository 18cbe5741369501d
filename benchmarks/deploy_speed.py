# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast `deploy` is, compared with `adb push` of the same files: in turns, whole commands timed.

`adb push` leaves the data in the page cache; `deploy` hashes it and waits until it is on the flash.
Therefore the time of the push with a `sync` after it is measured too.

python -m benchmarks.deploy_speed BUNDLE --device SERIAL

It works in a folder of its own on the phone, which it removes, and leaves what was deployed alone.
A virtual phone that was started with --link-mbps has a connection as slow as a cable; one without
has the machine's loopback, which is faster than any.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from moe_mobile.base.text import size, table
from moe_mobile.cli.errors import report
from moe_mobile.cli.options import echo_json, json_option
from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.adb_server import adb_command
from moe_mobile.device.deploy.inventory import FOLDER_VARIABLE
from moe_mobile.device.deploy.package import Package, bundle_package
from moe_mobile.device.select import ANY, open_device
from moe_mobile.errors import (
    CancelledError,
    DeviceError,
    MoeMobileError,
    UsageError,
    from_code,
    write_error,
)

_FOLDER = "moe-mobile-speed"
_ROOT = f"/data/local/tmp/{_FOLDER}"
_PUSHED = f"{_ROOT}/pushed"
# What link(2) says where this file, or this file system, cannot have another link.
_NO_LINKS = (
    errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK,
)  # fmt: skip


def measure(
    bundle: pathlib.Path, device: AdbDevice, turns: int
) -> Iterator[tuple[float, float, float]]:
    """Seconds of `deploy`, of `adb push`, and of the latter with a `sync`, in each turn.

    Raises IoError if another command deploys to the device or measures on it, DeviceError, and
    what deploying raises.
    """
    package = bundle_package(bundle)
    with _staged(package, bundle) as stage, device.alone():
        try:
            _clear(device, _ROOT)
            _deploy(bundle, package, device)  # brings the engine, and reads the bundle once
            for turn in range(turns):
                device.check_exclusive()
                took: dict[str, float] = {}
                for what in ("deploy", "push") if turn % 2 == 0 else ("push", "deploy"):
                    _clear(device, f"{_ROOT}/bundles {_PUSHED}")
                    if what == "deploy":
                        took["deploy"] = _deploy(bundle, package, device)
                    else:
                        took["push"] = _push(stage, package, device)
                        took["synced"] = took["push"] + _adb(device, "shell", "sync")
                yield took["deploy"], took["push"], took["synced"]
        except BaseException:
            with contextlib.suppress(MoeMobileError):  # what went wrong is what matters
                _clear(device, _ROOT)
            raise
        _clear(device, _ROOT)


@contextlib.contextmanager
def _staged(package: Package, bundle: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder with what is deployed and nothing else, such as weights packed for this machine.

    adb sends links as links, so its files are the same files, or copies if that cannot be.
    """
    above = bundle.resolve().parent
    try:
        folder = tempfile.TemporaryDirectory(dir=above, prefix=".deploy-speed-")
    except OSError as error:
        raise write_error(error, above) from error
    with folder as name:
        stage = pathlib.Path(name)
        for file in package.files:
            path = stage / file.path
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file.source, path)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    shutil.copyfile(file.source, path)
            except FileNotFoundError:
                raise UsageError(
                    "`prepare --consume` deleted it, so there is no whole bundle to send",
                    file=file.source,
                    remedy="Give a bundle that has all its files",
                ) from None
            except OSError as error:
                raise write_error(error, path) from error
        yield stage


def _deploy(bundle: pathlib.Path, package: Package, device: AdbDevice) -> float:
    command = [sys.executable, "-m", "moe_mobile", "deploy", str(bundle), "-s", device.serial]
    environment = os.environ | {FOLDER_VARIABLE: _FOLDER}
    began = time.monotonic()
    result = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment)
    took = time.monotonic() - began
    if result.returncode != 0:
        raise _told(result)
    (answer,) = json.loads(result.stdout)["deployments"]
    _require_all(answer["bytes_sent"], package, device)
    return took


def _told(result: subprocess.CompletedProcess[str]) -> MoeMobileError:
    """The error that a command printed with --json."""
    try:
        error: Mapping[str, Any] = json.loads(result.stdout)["error"]
    except (ValueError, LookupError):
        return MoeMobileError(f"`deploy` failed: {result.stderr.strip()[-500:]}")
    names = ("code", "file", "cause", "remedy", "setting")
    return from_code(**{name: error[name] or "" for name in names})


def _push(stage: pathlib.Path, package: Package, device: AdbDevice) -> float:
    took = _adb(device, "push", str(stage), _PUSHED)
    lengths = _shell(device, f"find {_PUSHED} -type f -exec stat -c %s {{}} +").split()
    _require_all(sum(map(int, lengths)), package, device)
    return took


def _require_all(sent: int, package: Package, device: AdbDevice) -> None:
    if sent != package.bytes:
        raise DeviceError(
            f"{sent} bytes were sent, and the bundle has {package.bytes}",
            setting=device.serial,
            remedy="Keep the connection and the bundle as they are meanwhile",
        )


def _adb(device: AdbDevice, *arguments: str) -> float:
    """Seconds that a command of adb's took."""
    began = time.monotonic()
    command = adb_command("-s", device.serial, *arguments)
    result = subprocess.run(command, capture_output=True, text=True)
    took = time.monotonic() - began
    if result.returncode != 0:
        told = (result.stderr.strip() or result.stdout.strip())[-500:]
        raise DeviceError(
            f"`adb {arguments[0]}` failed: {told}",
            setting=device.serial,
            remedy="Is there room for the bundle, and the connection good?",
        )
    return took


def _clear(device: AdbDevice, paths: str) -> None:
    _shell(device, f"rm -rf {paths} && sync")


def _shell(device: AdbDevice, script: str) -> str:
    result = device.shell(script)
    if result.exit_code != 0:
        raise DeviceError(f"`{script}` failed: {result.stderr.strip()}", setting=device.serial)
    return result.stdout


@click.command()
@click.argument("bundle", type=click.Path(path_type=pathlib.Path))
@click.option("-s", "--device", default=ANY, show_default=True, help="adb's serial.")
@click.option("-r", "--turns", type=click.IntRange(min=1), default=3, show_default=True)
@json_option
def command(bundle: pathlib.Path, device: str, turns: int, as_json: bool) -> None:
    """Time `deploy` against `adb push` of the same files, in turns."""
    length = bundle_package(bundle).bytes
    place = open_device(device)
    assert isinstance(place, AdbDevice)
    rounds = list(measure(bundle, place, turns))
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


def main() -> int:
    """Run it; the exit code, after an error in the form that all commands have."""
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return report(CancelledError("stopped by the user"), as_json="--json" in sys.argv)
    except MoeMobileError as error:
        return report(error, as_json="--json" in sys.argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
