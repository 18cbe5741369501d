# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Starting, finding, changing and stopping virtual phones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from moe_mobile.base.command_line import command_line
from moe_mobile.errors import DeviceError, UsageError, did_you_mean, write_error
from moe_mobile.virtual_phone.folder import PhoneFolder, claim, error_of, folders
from moe_mobile.virtual_phone.groups import has_systemd
from moe_mobile.virtual_phone.settings import Misbehaviour, PhoneSettings, host_abi
from moe_mobile.virtual_phone.userland import require_programs

_ADB_TIMEOUT = 30.0
_SCOPE = ("--user", "--scope", "--quiet", "--property=Delegate=yes", "--")


@dataclass(frozen=True)
class VirtualPhone:
    """A running phone.

    Attributes:
        name: its name.
        serial: what adb calls it, "127.0.0.1:PORT".
        record: all of phone.json.
    """

    name: str
    serial: str
    record: dict[str, Any]
    _folder: PhoneFolder

    @classmethod
    def of(cls, folder: PhoneFolder) -> VirtualPhone | None:
        """The phone that runs in a folder; None if none does."""
        record = folder.record()
        if record is None or not folder.runs():
            return None
        return cls(record["name"], record["serial"], record, folder)

    def misbehave(self, how: Misbehaviour | None = None, **changes: Any) -> None:
        """Change how it behaves from now on; keywords are members of :class:`Misbehaviour`.

        Raises:
            UsageError: a value is out of range.
            UnsupportedError: this phone cannot.
            DeviceError: it does not answer.
        """
        how = how or Misbehaviour(**changes)
        self._folder.tell(how.changes())

    def traffic(self) -> tuple[int, int]:
        """Bytes its server received and sent on the wire since it was started.

        Raises:
            DeviceError: it is gone.
        """
        return self._folder.traffic()

    def connect(self) -> str:
        """Have adb connect to it; returns what adb says of it.

        Raises:
            DeviceError: adb does not work.
        """
        return _adb("connect", self.serial)

    def stop(self) -> None:
        """Kill everything in it, forget its files, and have adb forget it."""
        with contextlib.suppress(DeviceError):
            _adb("disconnect", self.serial)
        self._folder.end(self.record["pid"])


def start(settings: PhoneSettings | None = None, *, connect: bool = True) -> VirtualPhone:
    """Start a phone in the background, and have adb connect to it.

    Raises:
        UsageError: there is a phone of that name.
        UnsupportedError: this machine cannot run one as asked for.
        IoError: its folder or its files cannot be made.
        DeviceError: adb does not work, or it cannot connect to a phone that should let it in.
    """
    settings = settings or PhoneSettings()
    require_programs(arm64=settings.abi not in (None, host_abi()))
    for left in folders():
        left.sweep()
    folder, lock = claim(settings.name)
    try:
        (folder.path / "settings.json").write_text(settings.to_json())
        answer = None
        if _wants_scope(settings):
            with contextlib.suppress(DeviceError):  # a systemd that makes no scope
                answer = _launch(folder, lock, ["systemd-run", *_SCOPE], ["--scoped"])
        if answer is None:
            answer = _launch(folder, lock, [], [])
    except DeviceError:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    except OSError as problem:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise write_error(problem, folder.path) from problem
    finally:
        os.close(lock)
    if "error" in answer:
        raise error_of(answer)
    phone = VirtualPhone(answer["name"], answer["serial"], answer, folder)
    if connect:
        try:
            said = phone.connect()
            how = settings.misbehaviour
            if "connected to" not in said and not (how.unauthorized or how.offline):
                raise DeviceError(
                    f"adb cannot connect to the virtual phone: {said or 'it says nothing'}",
                    remedy="Restart adb's server (`adb kill-server`), then start the phone again",
                )
        except BaseException:  # an interrupt too: nobody knows of the phone yet
            phone.stop()
            raise
    return phone


def phones() -> list[VirtualPhone]:
    """All running phones."""
    found = map(VirtualPhone.of, folders())
    return [phone for phone in found if phone is not None]


def find(name: str) -> VirtualPhone:
    """The running phone of that name or serial.

    Raises:
        UsageError: there is none.
    """
    running = phones()
    for phone in running:
        if name in (phone.name, phone.serial):
            return phone
    known = [word for phone in running for word in (phone.name, phone.serial)]
    names = ", ".join(phone.name for phone in running)
    start = f"None runs: start one with `{command_line('virtual-phone start')}`"
    raise UsageError(
        f"there is no virtual phone called {name!r}",
        remedy=did_you_mean(name, known, f"These run: {names}" if running else start),
    )


def _launch(folder: PhoneFolder, lock: int, prefix: list[str], suffix: list[str]) -> dict[str, Any]:
    """Start a phone's supervisor, and return what it reports.

    It gets the folder's lock as its standard input, so that the lock is held at all times. If we
    are interrupted before it reports, it has no reader and ends.

    Raises:
        DeviceError: it ended without a report.
    """
    module = ["-m", "moe_mobile.virtual_phone.supervisor", str(folder.path.absolute())]
    with (folder.path / "log").open("w+b") as log:
        process = subprocess.Popen(
            [*prefix, sys.executable, *module, *suffix],
            stdin=lock,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        with process:
            assert process.stdout is not None
            line = process.stdout.readline()
        if not line:  # and by now its folder may be gone
            said = os.pread(log.fileno(), 1 << 16, 0).decode(errors="replace").splitlines()
            raise DeviceError(f"the virtual phone's server ended at once: {' '.join(said[-1:])}")
    answer = json.loads(line)
    assert isinstance(answer, dict)
    return answer


def _wants_scope(settings: PhoneSettings) -> bool:
    """Whether to ask this user's systemd for a control group of the phone's own."""
    if settings.limiter == "systemd":
        return has_systemd()
    by_itself = settings.limiter is None and os.geteuid() != 0
    return settings.ram is not None and by_itself and has_systemd()


def _adb(*arguments: str) -> str:
    from moe_mobile.device.adb_server import adb_command  # takes a while

    command = adb_command(*arguments)
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_ADB_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(
            f"adb does not work: {error}", remedy="Check that `adb devices` works"
        ) from error
    return result.stdout.strip()
