# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The state folder: one folder per phone. The process that holds its lock runs the phone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mobile.base import limits
from moe_mobile.base.command_line import command_line
from moe_mobile.base.files import read_regular
from moe_mobile.base.json_field import parse_object
from moe_mobile.base.json_text import json_text
from moe_mobile.errors import DeviceError, MoeMobileError, UsageError, from_code, write_error

# What phone.json has in every version.
_RECORD = {"name": str, "serial": str, "pid": int}

_REPLY_LIMIT = 1 << 16
_REPLY_TIMEOUT = 30.0


@dataclass(frozen=True)
class PhoneFolder:
    """Files of one phone.

    settings.json, phone.json (once it runs), lock, counters, control (a socket), log,
    root/ (its read-only root), data/ (where /data lies) and flash.img (what is mounted there).
    """

    path: Path

    @property
    def name(self) -> str:
        """The phone's name."""
        return self.path.name

    def end(self, pid: int) -> None:
        """Terminate the process that runs the phone; return once nothing is left of it."""
        try:
            # Before it removes the file, and everything else after that.
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)

    def runs(self) -> bool:
        """Whether somebody runs the phone, or is about to."""
        try:
            # Shared: two that look at once do not take each other for its owner.
            os.close(self._lock(fcntl.LOCK_SH))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def sweep(self) -> None:
        """Remove what is left of a phone whose owner died, before it was up or later."""
        try:
            lock = self._lock(fcntl.LOCK_EX)
        except OSError:
            return
        try:
            names = set(os.listdir(self.path))
            # The state folder may be anywhere: what is not a phone's stays.
            if names <= {"lock"} or {"lock", "settings.json"} <= names:
                shutil.rmtree(self.path, ignore_errors=True)
        finally:
            os.close(lock)

    def record(self) -> dict[str, Any] | None:
        """phone.json; None while the phone is not up, or if another version wrote it."""
        try:
            record = parse_object(read_regular(self.path / "phone.json", limits.OWN_BYTES))
        except OSError:
            return None
        if record is None:
            return None
        known = all(isinstance(record.get(key), kind) for key, kind in _RECORD.items())
        return record if known else None

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent on the wire since the phone was started.

        Raises:
            DeviceError: the phone is gone.
        """
        try:
            received, sent = struct.unpack("<QQ", read_regular(self.path / "counters", 16))
        except (OSError, struct.error) as error:
            raise self._ended() from error
        return received, sent

    def _ended(self) -> DeviceError:
        again = command_line("virtual-phone start", name=self.name)
        return DeviceError(
            f"the virtual phone {self.name} has ended", remedy=f"Start it again: `{again}`"
        )

    def _lock(self, kind: int) -> int:
        """A descriptor that holds the lock; BlockingIOError if somebody else holds it."""
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
        return lock

    def tell(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the phone's server and return its answer.

        Raises:
            DeviceError: nobody answers.
            MoeMobileError: what the server says is wrong.
        """
        folder = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
                peer.settimeout(_REPLY_TIMEOUT)
                # A socket's address has at most 107 bytes; the folder's path may have more.
                peer.connect(f"/proc/self/fd/{folder}/control")
                peer.send(json_text(changes).encode())
                answer = json.loads(peer.recv(_REPLY_LIMIT) or b"null")
        except OSError as error:
            raise DeviceError(
                f"the virtual phone {self.name} does not answer: {error}",
                remedy="Stop it and start it again",
            ) from error
        finally:
            os.close(folder)
        if not isinstance(answer, dict):
            raise self._ended()
        if "error" in answer:
            raise error_of(answer)
        return answer


def error_of(answer: dict[str, Any]) -> MoeMobileError:
    """The typed error in what a phone's process says."""
    members = ("code", "file", "cause", "remedy", "setting")
    return from_code(**{name: answer["error"][name] or "" for name in members})


def _state_folder() -> Path:
    named = os.environ.get("MOE_MOBILE_PHONES_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(base) / "moe-mobile" / "virtual-phones"


def folders() -> list[PhoneFolder]:
    """All phones' folders, those of phones that died included."""
    try:
        return [PhoneFolder(path) for path in sorted(_state_folder().iterdir()) if path.is_dir()]
    except FileNotFoundError:
        return []


def claim(name: str | None) -> tuple[PhoneFolder, int]:
    """Make the folder of a new phone; returns its lock too, held while that is open anywhere.

    Raises:
        UsageError: a phone of that name exists.
        IoError: the state folder cannot be written.
    """
    base = _state_folder()
    number = 1
    while True:
        path = base / (name if name is not None else f"phone{number}")
        try:
            base.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            lock = _take(path)
        except FileExistsError:
            with contextlib.suppress(OSError):
                path.rmdir()  # empty: the process that made it died before it took the lock
                continue
            if name is None:
                number += 1
                continue
            raise UsageError(
                f"there is already a virtual phone {name}",
                setting="name",
                remedy=f"Choose another name, or moe-mobile virtual-phone stop {name}",
            ) from None
        except OSError as error:
            raise write_error(error, path) from error
        if lock is not None:
            return PhoneFolder(path), lock


def _take(path: Path) -> int | None:
    """Make and take the lock of a new folder; None if it was swept away before we had it."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.fstat(lock).st_nlink == 0:
        os.close(lock)
        return None
    return lock
