# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The steps by which a device gets a package. Only decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from moe_mobile.device.deploy.inventory import Inventory
from moe_mobile.device.deploy.package import Package, Wanted


@dataclasses.dataclass(frozen=True)
class Send:
    """Send a file from ``offset`` on, which is what the device has of it by its listing.

    ``again``: what it has is wrong.
    """

    file: Wanted
    offset: int
    again: bool = False

    @property
    def bytes(self) -> int:
        """Bytes that go over the wire."""
        return self.file.bytes - self.offset


@dataclasses.dataclass(frozen=True)
class Copy:
    """Take a file that another deployment has (``source``: path below the root)."""

    file: Wanted
    source: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do, in this order.

    Attributes:
        check: files to be hashed on the device, with the folder they lie in.
        copies: files that are there under another path.
        sends: files to send, wholly or in part.
        keep: files that need nothing.
        exists: whether a folder of this id is there already; it is then mended file by file.
    """

    check: tuple[tuple[Wanted, str], ...]
    copies: tuple[Copy, ...]
    sends: tuple[Send, ...]
    keep: tuple[Wanted, ...]
    exists: bool

    @property
    def complete(self) -> bool:
        """Whether the device holds the package, verified."""
        return self.exists and not (self.check or self.copies or self.sends)

    @property
    def bytes_to_send(self) -> int:
        """Bytes that go over the wire, unless a check finds damage."""
        return sum(send.bytes for send in self.sends)

    @property
    def bytes_to_write(self) -> int:
        """Bytes the device must have free for it."""
        return self.bytes_to_send + sum(copy.file.bytes for copy in self.copies)


def make_plan(package: Package, there: Inventory, damaged: Collection[str] = ()) -> Plan:
    """The plan for a package, given what is there.

    ``damaged``: paths below the root that were hashed and are not what they should be.
    """
    final, partial = there.below(package.folder), there.below(package.partial)
    store = _packed_files(package, there)
    elsewhere = {
        file.sha256: path
        for path, file in there.files.items()
        if file.sha256 is not None and path not in damaged
    }
    check, copies, sends, keep = [], [], [], []
    for file in package.files:
        placed, arriving = final.get(file.path), partial.get(file.path)
        placed_path = f"{package.folder}/{file.path}"
        arriving_path = f"{package.partial}/{file.path}"
        if placed is not None and placed.bytes == file.bytes and placed_path not in damaged:
            if placed.sha256 == file.sha256:
                keep.append(file)
            else:
                check.append((file, package.folder))
        elif placed is None and _consumed(package, there, file, store):
            keep.append(file)
        elif arriving is not None and arriving.bytes == file.bytes and arriving_path not in damaged:
            check.append((file, package.partial))
        elif file.sha256 in elsewhere and file.bytes:
            copies.append(Copy(file, elsewhere[file.sha256]))
        else:
            again = arriving_path in damaged
            resumes = arriving is not None and arriving.bytes < file.bytes and not again
            offset = arriving.bytes if arriving is not None and resumes else 0
            sends.append(Send(file, offset, again))
    return Plan(tuple(check), tuple(copies), tuple(sends), tuple(keep), exists=bool(final))


def packed_bytes(package: Package, there: Inventory, *, consume: bool) -> int:
    """About what `prepare` will still write: packed weights take what the programs take.

    With ``consume`` a layer's shard goes before the next layer is packed.
    """
    store = _packed_files(package, there)
    missing = [size for name, size in package.layers.values() if name not in store]
    experts = max(missing, default=0) if consume else sum(missing)
    return experts + (0 if "methods.packed" in store else package.methods_bytes)


def other_stores(package: Package, there: Inventory) -> list[str]:
    """Folders below the root with packed weights that this version of the engine cannot use."""
    names = {
        path.split("/")[1]
        for path in there.below(package.folder)
        if path.startswith(".packed/") and not path.startswith(f".packed/{package.stores}")
    }
    return [f"{package.folder}/.packed/{name}" for name in sorted(names)]


def _consumed(package: Package, there: Inventory, file: Wanted, store: Collection[str]) -> bool:
    """Whether `prepare --consume` deleted it: it was verified, and its packed file is there."""
    stands_for_it = package.layers.get(file.path)
    return (
        stands_for_it is not None
        and stands_for_it[0] in store
        and there.vouched.get(f"{package.folder}/{file.path}") == file.sha256
    )


def _packed_files(package: Package, there: Inventory) -> set[str]:
    return {
        path.rpartition("/")[2]
        for path in there.below(package.folder)
        if path.startswith(f".packed/{package.stores}")
    }
