# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The state folder: one folder per phone, and who holds its lock runs it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mobile.errors import DeviceError, UsageError, from_code, write_error

__all__ = ["PhoneFolder", "claim", "folders"]

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

    def lock(self) -> int | None:
        """A descriptor that holds the phone; None where somebody else does."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def wait_until_free(self) -> None:
        """Return once nobody runs the phone."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
        except FileNotFoundError:
            pass

    def runs(self) -> bool:
        """Whether somebody runs the phone."""
        try:
            fd = self.lock()
        except OSError:
            return False
        if fd is None:
            return True
        os.close(fd)
        return False

    def record(self) -> dict[str, Any] | None:
        """phone.json; None while the phone is not up."""
        try:
            record = json.loads((self.path / "phone.json").read_text())
        except (OSError, ValueError):
            return None
        assert isinstance(record, dict)
        return record

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent on the wire since the phone was started."""
        received, sent = struct.unpack("<QQ", (self.path / "counters").read_bytes())
        return received, sent

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
                peer.send(json.dumps(changes).encode())
                answer = json.loads(peer.recv(_REPLY_LIMIT) or b"null")
        except OSError as error:
            raise DeviceError(
                f"the virtual phone {self.name} does not answer: {error}",
                remedy="Stop it and start it again",
            ) from error
        finally:
            os.close(folder)
        if not isinstance(answer, dict):
            raise DeviceError(f"the virtual phone {self.name} went away")
        if "error" in answer:
            problem = answer["error"]
            raise from_code(
                problem["code"],
                problem["file"] or "",
                problem["cause"],
                problem["remedy"] or "",
                problem["setting"] or "",
            )
        return answer


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


def claim(name: str | None) -> PhoneFolder:
    """Make the folder of a new phone.

    Raises:
        UsageError: a phone of that name exists.
        IoError: the state folder cannot be written.
    """
    base = _state_folder()
    numbers = iter(range(1, 10_000))
    while True:
        path = base / (name if name is not None else f"phone{next(numbers)}")
        try:
            base.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if name is None:
                continue
            raise UsageError(
                f"there is a virtual phone {name} already",
                setting="name",
                remedy=f"Choose another name, or moe-mobile virtual-phone stop {name}",
            ) from None
        except OSError as error:
            raise write_error(error, path) from error
        return PhoneFolder(path)
