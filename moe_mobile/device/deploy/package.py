# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What is deployed: a folder of files whose content is known by its SHA-256."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

from moe_mobile.base.files import open_regular
from moe_mobile.base.pins import executorch_version
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle.reader import parse_manifest, read_manifest_bytes
from moe_mobile.bundle.verify import check_files
from moe_mobile.errors import UsageError, read_error
from moe_mobile.runtime import Runtime

SETTINGS = "moe-mobile-settings.json"
"""Next to a bundle's files: what `tune` chose for it, for programs on the device."""

_ID_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A file: its path in the package, where it lies here, its length and its SHA-256."""

    path: str
    source: pathlib.Path
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Package:
    """Files that belong together on a device, in ``phone_root()/room/id``.

    Attributes:
        layers: for a bundle, the packed file's name that stands for each shard once `prepare
            --consume` deleted it, and the shard's length, by the shard's path.
        methods_bytes: about what the packed dense methods will take.
        stores: how the names of stores begin that this version of the engine can use.
    """

    room: str
    id: str
    files: tuple[Wanted, ...]
    layers: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    methods_bytes: int = 0
    stores: str = ""

    @property
    def folder(self) -> str:
        """Path below ``phone_root()``."""
        return f"{self.room}/{self.id}"

    @property
    def partial(self) -> str:
        """The folder in which it is gathered until it is complete."""
        return self.folder + ".partial"

    @property
    def sums(self) -> str:
        """The file that says what was verified."""
        return self.folder + ".sums"

    @property
    def bytes(self) -> int:
        """Length of all files."""
        return sum(file.bytes for file in self.files)


def bundle_package(bundle: pathlib.Path, settings: pathlib.Path | None = None) -> Package:
    """A bundle as it lies here; its id is the beginning of the bundle's hash.

    ``settings``: a file that goes along, and changes nothing of the bundle.
    Shards that were consumed here may be on the device already, so their absence is no error yet.
    Raises the bundle reader's errors.
    """
    data = read_manifest_bytes(bundle)
    manifest = parse_manifest(data, str(bundle / m.MANIFEST_FILE))
    check_files(bundle, manifest, shards_may_be_gone=(bundle / ".packed").is_dir())
    digest = hashlib.sha256(data).hexdigest()
    files = [
        Wanted(file.path, bundle / file.path, file.bytes, file.sha256)
        for file in manifest.all_files()
    ]
    if settings is not None:
        if any(file.path == SETTINGS for file in files):
            raise UsageError(
                f"the bundle already has a file called {SETTINGS}",
                file=bundle,
                remedy="Deploy it without `settings`",
            )
        files.append(_wanted(SETTINGS, settings))
    # Last: if it is there, the bundle is complete.
    files.append(Wanted(m.MANIFEST_FILE, bundle / m.MANIFEST_FILE, len(data), digest))
    return Package(
        room="bundles",
        id=digest[:_ID_DIGITS],
        files=tuple(files),
        layers={
            shard.path: (_packed_name(index, variant, manifest), shard.bytes)
            for index, layer in enumerate(manifest.layers)
            for variant, shard in enumerate(layer.shards)
            if manifest.packs_experts
        },
        methods_bytes=sum(
            program.bytes
            for program in manifest.dense_programs
            if manifest.delegate_of(program) == m.PACKED_DELEGATE
        ),
        stores=f"{m.PACKED_DELEGATE}-{executorch_version()}-",
    )


def _packed_name(layer: int, variant: int, manifest: m.Manifest) -> str:
    """The packed store's file of a layer's experts in one precision, as the engine names it."""
    precision = f".{manifest.precisions[variant]}" if variant else ""
    return f"layer-{layer:02}{precision}.packed"


def _wanted(name: str, path: pathlib.Path) -> Wanted:
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Wanted(name, path, file.tell(), digest)
    except OSError as error:
        raise read_error(error, path) from error


def runtime_package(runtime: Runtime) -> Package:
    """An engine for phones. Raises IoError."""
    files = tuple(_wanted(name, runtime.folder / name) for name in runtime.files)
    return Package(room="runtime", id=runtime.digest[:_ID_DIGITS], files=files)
