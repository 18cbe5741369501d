# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Brings a package to a device, from whatever is there to a folder that is complete.

Nothing that was complete becomes incomplete on the way: files gather in `ID.partial`, which is
renamed once every byte was hashed on the device.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from moe_mobile.device.adb_server import AdbServer
from moe_mobile.device.deploy.inventory import (
    ROOT,
    Inventory,
    Present,
    inventory_script,
    parse_inventory,
    sums_lines,
)
from moe_mobile.device.deploy.lock import STALE_S, Lock, lock
from moe_mobile.device.deploy.package import Package, Wanted
from moe_mobile.device.deploy.plan import Copy, Plan, Send, make_plan
from moe_mobile.device.deploy.transfer import LAPSED, device_error, send_files
from moe_mobile.device.interface import ShellResult
from moe_mobile.errors import (
    BundleCorruptError,
    CancelledError,
    DeviceError,
    DiskFullError,
    MoeMobileError,
)
from moe_mobile.runner import Progress

__all__ = ["Deployed", "Deployer", "Digest"]

Digest = Callable[[str], str]
"""SHA-256 of a file on the device, given its absolute path; it makes the file durable too."""

_MIB = 1 << 20
_ANSWER_SECONDS = 60.0
_SLOWEST_FLASH = 10 * _MIB  # bytes per second
# Also of a connection of ours that broke.
_LOCK_SECONDS = STALE_S + 5.0
_BACK_SECONDS = 20.0
_FRUITLESS = 3


@dataclasses.dataclass
class Deployed:
    """What a deployment took. ``seconds``: of sending and hashing.

    ``other_stores``: packed weights of other engines there, which are of no use to this one.
    ``settings``: where those are that were sent along.
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


class Deployer:
    """Deploys to one device, until ``aborted`` is set.

    All methods raise DeviceError, DiskFullError, ReadOnlyError, and IoError where another command
    deploys to it too.
    """

    def __init__(
        self,
        server: AdbServer,
        serial: str,
        shell: Callable[..., ShellResult],
        aborted: threading.Event,
    ) -> None:
        self._server = server
        self._serial = serial
        self._shell = shell
        self._aborted = aborted
        self._held: list[Lock] = []

    def inventory(self) -> Inventory:
        """What is there, in one round trip."""
        return parse_inventory(self._run(inventory_script()))

    def remove(self, folders: Iterable[str]) -> None:
        """Delete folders below the root and what vouches for them."""
        names = [name for folder in folders for name in (f"{folder}.sums", folder)]
        if not names:
            return
        with self.deploying(), self.measuring():
            self._run(f"cd {ROOT} && rm -rf {' '.join(map(shlex.quote, names))}")

    def deploying(self) -> contextlib.AbstractContextManager[None]:
        """A lock for writing there; another command is waited for a while."""
        busy = "another command is deploying to this device"
        return self._lock(".deploy", busy, _LOCK_SECONDS)

    def measuring(self) -> contextlib.AbstractContextManager[None]:
        """A lock for measuring, and for deleting what may be measured."""
        return self._lock(".bench", "another command is measuring on this device", 0)

    def check_locks(self) -> None:
        """Raise IoError where a lock that is held has lapsed: its owner was silent for too long."""
        if self._held:
            self._run("")

    def require_locks(self, path: str) -> None:
        """The same without asking the device, which may tell that late."""
        if any(held.lapsed for held in self._held):
            raise device_error(self._serial, f"{ROOT}/{path}".rstrip("/"), "", LAPSED)

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
        self._run(f"cd {ROOT} && {{ {forget}; }}", folder)

    def deploy(
        self,
        package: Package,
        there: Inventory,
        digest: Digest,
        *,
        reserve: int = 0,
        progress: Progress | None = None,
    ) -> Deployed:
        """Bring a package to the device.

        A connection that breaks is waited for, as long as something arrives between two breaks.

        Args:
            package: what to bring.
            there: what the device has.
            digest: hashes files there.
            reserve: bytes that must be left afterwards, for `prepare`.
            progress: stage "deploy", in MiB.
        """
        report = Deployed(path=f"{ROOT}/{package.folder}", bytes=package.bytes)
        if make_plan(package, there).complete:
            report.was_complete = True
            return report
        began = time.monotonic()
        fruitless = 0
        while True:
            before = report.bytes_sent
            try:
                with self.deploying():
                    self._complete(package, digest, report, reserve, progress)
                break
            except MoeMobileError as error:
                if self._aborted.is_set():
                    raise CancelledError("stopped by the user") from None
                if not isinstance(error, DeviceError):
                    raise
                fruitless = fruitless + 1 if report.bytes_sent == before else 0
                if fruitless >= _FRUITLESS or not self._server.wait(self._serial, _BACK_SECONDS):
                    raise
        report.was_complete = report.bytes_sent + report.bytes_copied == 0
        report.seconds = time.monotonic() - began
        return report

    def _complete(
        self,
        package: Package,
        digest: Digest,
        report: Deployed,
        reserve: int,
        progress: Progress | None,
    ) -> None:
        """Once the device is ours: what is missing there by now, until nothing is."""
        damaged: set[str] = set()
        while True:
            there = self.inventory()
            plan = make_plan(package, there, damaged)
            if plan.complete:
                return
            self._require_space(plan, there, reserve)
            found = _Attempt(self, package, plan, digest, report, progress).run()
            if not found:
                self._finish(package, plan)
                return
            if found & damaged:
                raise BundleCorruptError(
                    "the device has other bytes than were sent, twice",
                    file=f"{ROOT}/{min(found & damaged)} on {self._serial}",
                    remedy="Its flash or the cable may be failing; try another port",
                )
            damaged |= found

    @contextlib.contextmanager
    def _lock(self, name: str, busy: str, wait_s: float) -> Iterator[None]:
        with lock(self._server, self._serial, name, busy, wait_s) as held:
            self._held.append(held)
            try:
                yield
            finally:
                self._held.remove(held)

    @property
    def _guard(self) -> str:
        return "".join(held.guard for held in self._held)

    def _require_space(self, plan: Plan, there: Inventory, reserve: int) -> None:
        needed = plan.bytes_to_write
        if needed + reserve > there.free_bytes:
            packed = f" and {reserve // _MIB} MiB for packed weights" if reserve else ""
            raise DiskFullError(
                f"{needed // _MIB} MiB more are needed{packed}, and "
                f"{there.free_bytes // _MIB} MiB are free",
                file=f"{ROOT} on {self._serial}",
                remedy="Free some space there; --replace gives up old deployments first, --consume "
                "deletes each shard once it is packed",
            )

    def _finish(self, package: Package, plan: Plan) -> None:
        """Name the folder, then say what was verified: mtimes must be those of the end."""
        folder, partial = shlex.quote(package.folder), shlex.quote(package.partial)
        if plan.exists:
            paths = [copy.file.path for copy in plan.copies]
            paths += [send.file.path for send in plan.sends]
            paths += [file.path for file, where in plan.check if where == package.partial]
            steps = [
                f"mkdir -p {folder}/{shlex.quote(_parent(path))} && "
                f"mv -f {partial}/{shlex.quote(path)} {folder}/{shlex.quote(path)} &&"
                for path in paths
            ]
            move = "\n".join(steps) + f"\nrm -rf {partial}"
        else:
            move = f"mv {partial} {folder}"
        kept = {file.path for file in plan.keep}
        listed = self._run(
            f"cd {ROOT} || exit\n{move} || exit\ncd {folder} && "
            "find . -type f -not -path './.packed/*' -exec stat -c '%s %Y %n' {} +",
            package.folder,
        )
        present: dict[str, Present] = {}
        for line in listed.splitlines():
            size, mtime, path = line.split(" ", 2)
            present[path.removeprefix("./")] = Present(int(size), int(mtime))
        lines = sums_lines(
            (
                file.path,
                # A consumed shard stays vouched for.
                dataclasses.replace(
                    present.get(file.path, Present(file.bytes, 0)), sha256=file.sha256
                ),
            )
            for file in package.files
            if file.path in present or file.path in kept
        )
        temporary = shlex.quote(package.sums + ".tmp")
        self._run(
            f"cd {ROOT} && printf %s {shlex.quote(lines)} > {temporary} && sync && "
            f"mv {temporary} {shlex.quote(package.sums)}",
            package.sums,
            written=plan.bytes_to_write,
        )

    def _run(self, script: str, path: str = "", written: int = 0) -> str:
        """What a script prints; where it fails, the error is about ``path`` below the root.

        ``written``: bytes that it may have to wait for until they are on the flash.
        """
        self.require_locks(path)
        result = self._shell(
            self._guard + script, timeout=_ANSWER_SECONDS + written / _SLOWEST_FLASH
        )
        if result.exit_code != 0:
            place = f"{ROOT}/{path}".rstrip("/")
            raise device_error(self._serial, place, result.stderr, result.exit_code)
        return result.stdout


@dataclasses.dataclass
class _Attempt:
    """One way through a plan, until the connection breaks or all is there."""

    _deployer: Deployer
    _package: Package
    _plan: Plan
    _digest: Digest
    _report: Deployed
    _progress: Progress | None
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    _done: int = 0

    def run(self) -> set[str]:
        """Copy, send and hash. Returns the paths below the root whose bytes are wrong."""
        package, plan, server = self._package, self._plan, self._deployer._server
        self._make_folders()
        # Hashing one file while the next is sent; the device's runner takes one request at a time.
        hashes: list[concurrent.futures.Future[set[str]]] = []
        with concurrent.futures.ThreadPoolExecutor(1) as hasher:
            for file, folder in plan.check:
                hashes.append(hasher.submit(self._wrong, file, folder))
            self._copy()
            for copy in plan.copies:
                hashes.append(hasher.submit(self._wrong_copy, copy))

            def arrived(send: Send) -> None:
                self._report.files_sent += 1
                hashes.append(hasher.submit(self._wrong, send.file, package.partial))

            send_files(
                server,
                self._deployer._serial,
                package.partial,
                plan.sends,
                guard=self._deployer._guard,
                sent=self._sent,
                arrived=arrived,
                aborted=self._deployer._aborted,
            )
        wrong: set[str] = set()
        for future in hashes:
            wrong |= future.result()
        return wrong

    def _make_folders(self) -> None:
        partial = self._package.partial
        files = [copy.file for copy in self._plan.copies]
        files += [send.file for send in self._plan.sends]
        folders = {_parent(f"{partial}/{file.path}") for file in files} | {partial}
        quoted = " ".join(map(shlex.quote, sorted(folders)))
        self._deployer._run(f"cd {ROOT} && mkdir -p {quoted}", partial)

    def _copy(self) -> None:
        copies, partial = self._plan.copies, self._package.partial
        steps = [
            f"cp {shlex.quote(copy.source)} {shlex.quote(f'{partial}/{copy.file.path}')}"
            for copy in copies
        ]
        if steps:
            size = sum(copy.file.bytes for copy in copies)
            self._deployer._run(" &&\n".join([f"cd {ROOT}", *steps]), partial, written=size)
            self._report.bytes_copied += size

    def _sent(self, count: int) -> None:
        self._deployer.require_locks(self._package.partial)
        with self._lock:
            self._report.bytes_sent += count
            self._done += count
            if self._progress is not None:
                total = self._plan.bytes_to_send
                self._progress("deploy", self._done // _MIB, -(-total // _MIB))

    def _wrong(self, file: Wanted, folder: str) -> set[str]:
        path = f"{folder}/{file.path}"
        return set() if self._digest(f"{ROOT}/{path}") == file.sha256 else {path}

    def _wrong_copy(self, copy: Copy) -> set[str]:
        """A copy that is wrong tells that its source is, though that was verified once."""
        wrong = self._wrong(copy.file, self._package.partial)
        if wrong:
            room, folder, path = copy.source.split("/", 2)
            self._deployer.distrust(f"{room}/{folder}", path)
            wrong.add(copy.source)
        return wrong


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "."
