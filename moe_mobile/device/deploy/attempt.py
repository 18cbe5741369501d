# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One way through a plan: making folders, copying, sending, hashing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import shlex
import threading
from collections.abc import Callable, Iterator

from moe_mobile.base.progress import Progress
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.package import Package, Wanted
from moe_mobile.device.deploy.plan import Copy, Plan, Send
from moe_mobile.device.deploy.remote import MIB, Remote
from moe_mobile.device.deploy.transfer import make_receiver, send_files

Digest = Callable[[str], str]
"""SHA-256 of a file on the device, given its absolute path; it makes the file durable too."""


@dataclasses.dataclass
class Deployed:
    """What a deployment took. ``seconds``: of sending and hashing.

    ``other_stores``: packed weights of other engines there, which this one cannot use.
    ``settings``: where the settings that were sent along are.
    """

    path: str
    bytes: int
    bytes_sent: int = 0
    bytes_copied: int = 0
    files_sent: int = 0
    seconds: float = 0.0
    was_complete: bool = False
    other_stores: list[str] = dataclasses.field(default_factory=list)
    settings: str | None = None


@contextlib.contextmanager
def _cancelled_on_failure(futures: list[concurrent.futures.Future[set[str]]]) -> Iterator[None]:
    """What has not begun is not done any more: each would wait for a device that may be gone."""
    try:
        yield
    except BaseException:
        for future in futures:
            future.cancel()
        raise


@dataclasses.dataclass
class Attempt:
    """One way through a plan, until the connection breaks or all is there."""

    _remote: Remote
    _package: Package
    _plan: Plan
    _digest: Digest
    _report: Deployed
    _progress: Progress | None
    _careful: bool
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    _done: int = 0

    def run(self) -> set[str]:
        """Copy, send and hash. Returns the paths below the root whose bytes are wrong."""
        package, plan, remote = self._package, self._plan, self._remote
        if plan.sends:
            self._tell()
        receiver, making = make_receiver(remote.guard, package.partial)
        self._make_folders(making)
        # Hashing one file while the next is sent; the device's runner takes one request at a time.
        hashes: list[concurrent.futures.Future[set[str]]] = []
        with concurrent.futures.ThreadPoolExecutor(1) as hasher, _cancelled_on_failure(hashes):
            for file, folder in plan.check:
                hashes.append(hasher.submit(self._wrong, file, folder))
            self._copy()
            for copy in plan.copies:
                hashes.append(hasher.submit(self._wrong_copy, copy))

            def arrived(send: Send) -> None:
                with self._lock:
                    self._report.files_sent += 1
                hashes.append(hasher.submit(self._wrong, send.file, package.partial))

            send_files(
                remote.server,
                remote.serial,
                package.partial,
                plan.sends,
                receiver=receiver,
                total=package.bytes,
                careful=self._careful,
                sent=self._sent,
                arrived=arrived,
                aborted=remote.aborted,
            )
        wrong: set[str] = set()
        for future in hashes:
            wrong |= future.result()
        return wrong

    def _make_folders(self, making: str) -> None:
        partial = self._package.partial
        files = [copy.file for copy in self._plan.copies]
        files += [send.file for send in self._plan.sends]
        if not files:  # what is only hashed lies in a folder already
            return
        folders = {parent(f"{partial}/{file.path}") for file in files}
        quoted = " ".join(map(shlex.quote, sorted(folders)))
        self._remote.run(f"cd {phone_root()} && mkdir -p {quoted} && {making}", partial)

    def _copy(self) -> None:
        copies, partial = self._plan.copies, self._package.partial
        steps = [
            f"cp {shlex.quote(copy.source)} {shlex.quote(f'{partial}/{copy.file.path}')}"
            for copy in copies
        ]
        if steps:
            size = sum(copy.file.bytes for copy in copies)
            self._remote.run(" &&\n".join([f"cd {phone_root()}", *steps]), partial, written=size)
            self._report.bytes_copied += size

    def _sent(self, count: int) -> None:
        self._remote.require_locks(self._package.partial)
        with self._lock:
            self._report.bytes_sent += count
            self._done += count
            self._tell()

    def _tell(self) -> None:
        """Progress in MiB of the package, with what was there before."""
        total = sum(file.bytes for file in self._package.files)
        done = total - self._plan.bytes_to_send + self._done
        if self._progress is not None:
            self._progress("deploy", done // MIB, -(-total // MIB))

    def _wrong(self, file: Wanted, folder: str) -> set[str]:
        path = f"{folder}/{file.path}"
        return set() if self._digest(f"{phone_root()}/{path}") == file.sha256 else {path}

    def _wrong_copy(self, copy: Copy) -> set[str]:
        """A wrong copy means that its source is wrong, though it was verified once."""
        wrong = self._wrong(copy.file, self._package.partial)
        if wrong:
            room, folder, path = copy.source.split("/", 2)
            self._remote.distrust(f"{room}/{folder}", path)
            wrong.add(copy.source)
        return wrong


def parent(path: str) -> str:
    """The folder that a path is in, "." at the top."""
    return path.rpartition("/")[0] or "."
