# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Scripts in our folder on a device, under the locks that are held there."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from moe_mobile.base import limits
from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.lock import Lock, lock
from moe_mobile.device.deploy.told import LAPSED, device_error, endless
from moe_mobile.device.interface import ShellResult

MIB = 1 << 20

_SLOWEST_FLASH = 10 * MIB  # bytes per second


@dataclass
class Remote:
    """One device, until ``aborted`` is set. All methods raise DeviceError and IoError."""

    server: AdbServer
    serial: str
    shell: Callable[..., ShellResult]
    aborted: threading.Event
    _held: list[Lock] = field(default_factory=list)

    @contextlib.contextmanager
    def lock(self, name: str, busy: str, wait_s: float) -> Iterator[None]:
        """Hold a lock, see :mod:`moe_mobile.device.deploy.lock`."""
        with lock(self.server, self.serial, name, busy, wait_s) as held:
            self._held.append(held)
            try:
                yield
            finally:
                self._held.remove(held)

    @property
    def guard(self) -> str:
        """The beginning of a script that writes there."""
        return "".join(held.guard for held in self._held)

    def check_locks(self) -> None:
        """Raise IoError if a lock that is held has lapsed: its owner was silent for too long."""
        if self._held:
            self.run("")

    def require_locks(self, path: str) -> None:
        """The same without asking the device, which may report it late."""
        try:
            lapsed = any(held.lapsed for held in self._held)
        except ConnectionAbortedError:
            raise endless(self.serial) from None
        if lapsed:
            raise device_error(self.serial, f"{phone_root()}/{path}".rstrip("/"), b"", LAPSED)

    def run(self, script: str, path: str = "", written: int = 0) -> str:
        """What a script prints; if it fails, the error is about ``path`` below the root.

        ``written``: bytes that it may have to wait for until they are on the flash.
        """
        self.require_locks(path)
        seconds = limits.ANSWER_S + written / _SLOWEST_FLASH
        result = self.shell(self.guard + script, timeout=seconds)
        if result.exit_code != 0:
            place = f"{phone_root()}/{path}".rstrip("/")
            raise device_error(self.serial, place, result.stderr.encode(), result.exit_code)
        return result.stdout

    def distrust(self, folder: str, path: str | None = None) -> None:
        """Forget that a file in a folder was verified, or all of them: it is when deployed next."""
        sums = f"{shlex.quote(folder)}.sums"
        forget = f"rm -f {sums}"
        if path is not None:
            pattern = shlex.quote(f" {path}")
            # `awk` is not on every phone; what no longer matches is put aside line by line.
            forget = (
                f"[ ! -f {sums} ] || while IFS= read -r line; do "
                f'case "$line" in *{pattern}) ;; *) echo "$line" ;; esac; '
                f"done < {sums} > {sums}.tmp && mv {sums}.tmp {sums}"
            )
        self.run(f"cd {phone_root()} && {{ {forget}; }}", folder)
