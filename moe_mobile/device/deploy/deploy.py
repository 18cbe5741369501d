# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Brings a package to a device, from whatever is there to a folder that is complete.

Nothing that was complete becomes incomplete on the way: files gather in `ID.partial`, which is
renamed once every byte was hashed on the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Iterable

from moe_mobile.base import limits
from moe_mobile.base.progress import Progress
from moe_mobile.base.text import size
from moe_mobile.device.deploy.attempt import Attempt, Deployed, Digest, parent
from moe_mobile.device.deploy.inventory import (
    Inventory,
    Present,
    inventory_script,
    parse_inventory,
    parse_listing,
    phone_root,
    sums_lines,
)
from moe_mobile.device.deploy.lock import STALE_S
from moe_mobile.device.deploy.package import Package
from moe_mobile.device.deploy.plan import Plan, make_plan
from moe_mobile.device.deploy.remote import Remote
from moe_mobile.device.deploy.told import odd
from moe_mobile.device.lost import LostError
from moe_mobile.errors import (
    BundleCorruptError,
    CancelledError,
    DiskFullError,
    MoeMobileError,
)

# Also of a connection of ours that broke.
_LOCK_SECONDS = STALE_S + 5.0
_BACK_SECONDS = 20.0


class _Headway:
    """Whether tries get on, by what the device lists: what it only took may be gone.

    ``broken``: whether the connection broke before.
    """

    def __init__(self) -> None:
        self.broken = False
        self._fruitless = 0
        self.begin_again()

    def begin_again(self) -> None:
        """More is missing than before, for a good reason."""
        self._least: int | None = None

    def listed(self, missing: int) -> None:
        """The device lists all but so many bytes."""
        # A share of the rest, or a small package would never get on.
        if self._least is None or missing <= self._least - min(
            limits.LEAST_PIECE, self._least // 16 + 1
        ):
            self._least, self._fruitless = missing, 0

    def lost(self) -> bool:
        """The connection broke: whether to give up."""
        self.broken = True
        self._fruitless += 1
        return self._fruitless >= limits.FRUITLESS


class Deployer:
    """Deploys to one device.

    All methods raise DeviceError, DiskFullError, ReadOnlyError, and IoError if another command
    deploys to it too.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def inventory(self) -> Inventory:
        """What is there, in one round trip."""
        listed = self._remote.run(inventory_script())
        try:
            return parse_inventory(listed)
        except ValueError:
            raise odd(self._remote.serial, "listing", listed) from None

    def remove(self, folders: Iterable[str]) -> None:
        """Delete folders below the root and what vouches for them."""
        names = [name for folder in folders for name in (f"{folder}.sums", folder)]
        if not names:
            return
        with self.deploying(), self.measuring():
            self._remote.run(f"cd {phone_root()} && rm -rf {' '.join(map(shlex.quote, names))}")

    def deploying(self) -> contextlib.AbstractContextManager[None]:
        """A lock for writing there; another command is waited for a while."""
        busy = "another command is deploying to this device"
        return self._remote.lock(".deploy", busy, _LOCK_SECONDS)

    def measuring(self) -> contextlib.AbstractContextManager[None]:
        """A lock for measuring, and for deleting what may be measured."""
        return self._remote.lock(".bench", "another command is measuring on this device", 0)

    def check_locks(self) -> None:
        """Raise IoError if a lock that is held has lapsed: its owner was silent for too long."""
        self._remote.check_locks()

    def distrust(self, folder: str, path: str | None = None) -> None:
        """Forget that a file in a folder was verified, or all of them: it is when deployed next."""
        self._remote.distrust(folder, path)

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

        A connection that breaks is waited for, as long as the device lists more than before it
        broke. A script that fails ends it.

        Args:
            package: what to bring.
            there: what the device has.
            digest: hashes files there.
            reserve: bytes that must be left afterwards, for `prepare`.
            progress: stage "deploy", in MiB.
        """
        report = Deployed(path=f"{phone_root()}/{package.folder}", bytes=package.bytes)
        if make_plan(package, there).complete:
            report.was_complete = True
            return report
        began = time.monotonic()
        headway = _Headway()
        while True:
            try:
                with self.deploying():
                    self._complete(package, digest, report, reserve, progress, headway)
                break
            except MoeMobileError as error:
                if self._remote.aborted.is_set():
                    raise CancelledError("stopped by the user") from None
                if (
                    not isinstance(error, LostError)
                    or headway.lost()
                    or not self._remote.server.wait(self._remote.serial, _BACK_SECONDS)
                ):
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
        headway: _Headway,
    ) -> None:
        """Once we hold the lock: send what is missing, until nothing is."""
        damaged: set[str] = set()
        while True:
            there = self.inventory()
            plan = make_plan(package, there, damaged)
            if plan.complete:
                return
            headway.listed(plan.bytes_to_write)
            self._require_space(plan, there, reserve)
            careful = headway.broken
            found = Attempt(self._remote, package, plan, digest, report, progress, careful).run()
            if not found:
                self._finish(package, plan)
                return
            if found & damaged:
                raise BundleCorruptError(
                    "the bytes on the device differ from those sent, twice in a row",
                    file=f"{phone_root()}/{min(found & damaged)} on {self._remote.serial}",
                    remedy="Its flash or the cable may be failing; try another port",
                )
            damaged |= found
            headway.begin_again()

    def _require_space(self, plan: Plan, there: Inventory, reserve: int) -> None:
        needed = plan.bytes_to_write
        if needed + reserve > there.free_bytes:
            packed = f" and {size(reserve, 'up')} for packed weights" if reserve else ""
            raise DiskFullError(
                f"{size(needed, 'up')} more are needed{packed}, and "
                f"{size(there.free_bytes, 'down')} are free",
                file=f"{phone_root()} on {self._remote.serial}",
                remedy="Free some space there; `replace` deletes old deployments first, `consume` "
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
                f"mkdir -p {folder}/{shlex.quote(parent(path))} && "
                f"mv -f {partial}/{shlex.quote(path)} {folder}/{shlex.quote(path)} &&"
                for path in paths
            ]
            move = "\n".join(steps) + f"\nrm -rf {partial}"
        else:
            # A writer that was cut may have left a copy.
            move = f"find {partial} -name '*.free' -exec rm -f {{}} + && mv {partial} {folder}"
        kept = {file.path for file in plan.keep}
        listed = self._remote.run(
            f"cd {phone_root()} || exit\n{move} || exit\ncd {folder} && "
            "find . -type f -not -path './.packed/*' -exec stat -c '%s %Y %n' {} +",
            package.folder,
        )
        try:
            present = parse_listing(listed)
        except ValueError as error:
            raise odd(self._remote.serial, "listing", str(error)) from None
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
        self._remote.run(
            f"cd {phone_root()} && printf %s {shlex.quote(lines)} > {temporary} && sync && "
            f"mv {temporary} {shlex.quote(package.sums)}",
            package.sums,
            written=plan.bytes_to_write,
        )
