# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Ways to break the files of a prepared bundle."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.manifest_cases import CORRUPT, INVALID
from tests.hostile.packed_bytes import BLOB, FOOTER, SEAL, PackedBytes, machine_secret
from tests.hostile.support import packed_folder

Change = Callable[[Path], object]
Forge = Callable[[bytearray, list[bytearray]], object]


@dataclass(frozen=True)
class Corruption:
    """``codes``: what verifying it may say, about a file whose path contains ``file``."""

    file: str
    codes: set[str]
    apply: Change


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        (value,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ 1 << bit]))


def _flip(name: str, at: int) -> Change:
    return lambda bundle: flip(find(bundle, name), at)


def find(bundle: Path, name: str) -> Path:
    """A file of the bundle, or (``*.packed``) of its packed store."""
    return packed_folder(bundle) / name if name.endswith(".packed") else bundle / name


def _truncate(name: str, keep: int) -> Change:
    """Keeps this many bytes; if negative, removes this many."""

    def apply(bundle: Path) -> None:
        path = find(bundle, name)
        os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)

    return apply


def _append(name: str, data: bytes) -> Change:
    def apply(bundle: Path) -> None:
        with find(bundle, name).open("ab") as file:
            file.write(data)

    return apply


def _zero(name: str) -> Change:
    def apply(bundle: Path) -> None:
        path = find(bundle, name)
        path.write_bytes(bytes(path.stat().st_size))

    return apply


def _fifo(name: str) -> Change:
    def apply(bundle: Path) -> None:
        find(bundle, name).unlink()
        os.mkfifo(find(bundle, name))

    return apply


def _folder(name: str) -> Change:
    def apply(bundle: Path) -> None:
        find(bundle, name).unlink()
        find(bundle, name).mkdir()

    return apply


def _link(name: str) -> Change:
    """The very same bytes, but behind a link that leads out of the bundle."""

    def apply(bundle: Path) -> None:
        path = find(bundle, name)
        outside = bundle.with_name(bundle.name + "-outside")
        shutil.move(path, outside)
        path.symlink_to(outside)

    return apply


def _remove(name: str) -> Change:
    return lambda bundle: find(bundle, name).unlink()


def _exchange(first: str, second: str) -> Change:
    def apply(bundle: Path) -> None:
        a, b = find(bundle, first), find(bundle, second)
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)

    return apply


def _exchange_programs(bundle: Path) -> None:
    """Two experts of equal length change places within their shard."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    experts = manifest["layers"][0]["experts"]
    a, b = experts["programs"][2], experts["programs"][5]
    assert a["bytes"] == b["bytes"]
    path = bundle / experts["path"]
    data = bytearray(path.read_bytes())
    first = slice(a["offset"], a["offset"] + a["bytes"])
    second = slice(b["offset"], b["offset"] + b["bytes"])
    data[first], data[second] = data[second], data[first]
    path.write_bytes(data)


def _pad_shard(bundle: Path) -> None:
    """A secret in the zeros between two programs."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    experts = manifest["layers"][0]["experts"]
    flip(bundle / experts["path"], experts["programs"][0]["bytes"] + 1)


BUNDLE: dict[str, Corruption] = {
    "embedding-flipped": Corruption("embedding.bin", {CORRUPT}, _flip("embedding.bin", 5000)),
    "embedding-truncated": Corruption("embedding.bin", {INVALID}, _truncate("embedding.bin", -1)),
    "embedding-longer": Corruption("embedding.bin", {INVALID}, _append("embedding.bin", b"\0")),
    "embedding-empty": Corruption("embedding.bin", {INVALID}, _truncate("embedding.bin", 0)),
    "embedding-zeros": Corruption("embedding.bin", {CORRUPT}, _zero("embedding.bin")),
    "embedding-fifo": Corruption("embedding.bin", {INVALID}, _fifo("embedding.bin")),
    "dense-flipped-header": Corruption("layer-00.pte", {CORRUPT}, _flip("dense/layer-00.pte", 4)),
    "dense-flipped-weights": Corruption(
        "layer-01.pte", {CORRUPT}, _flip("dense/layer-01.pte", -100)
    ),
    "dense-truncated": Corruption("layer-01.pte", {INVALID}, _truncate("dense/layer-01.pte", 4096)),
    "dense-exchanged": Corruption(
        "layer-00.pte", {CORRUPT}, _exchange("dense/layer-00.pte", "dense/layer-01.pte")
    ),
    "dense-missing": Corruption("layer-01.pte", {INVALID}, _remove("dense/layer-01.pte")),
    "dense-folder": Corruption("layer-00.pte", {INVALID}, _folder("dense/layer-00.pte")),
    "dense-link": Corruption("layer-00.pte", {INVALID}, _link("dense/layer-00.pte")),
    "dense-folder-is-a-link": Corruption("dense", {INVALID}, _link("dense")),
    "head-flipped": Corruption("head.pte", {CORRUPT}, _flip("dense/head.pte", 5000)),
    "head-empty": Corruption("head.pte", {INVALID}, _truncate("dense/head.pte", 0)),
    "shard-flipped": Corruption("layer-00.shard", {CORRUPT}, _flip("experts/layer-00.shard", 5000)),
    "shard-flipped-padding": Corruption("layer-00.shard", {CORRUPT}, _pad_shard),
    "shard-truncated": Corruption(
        "layer-01.shard", {INVALID}, _truncate("experts/layer-01.shard", -BLOB)
    ),
    "shard-empty": Corruption("layer-01.shard", {INVALID}, _truncate("experts/layer-01.shard", 0)),
    "shard-fifo": Corruption("layer-01.shard", {INVALID}, _fifo("experts/layer-01.shard")),
    "shard-link": Corruption("layer-01.shard", {INVALID}, _link("experts/layer-01.shard")),
    "shards-exchanged": Corruption(
        "layer-00.shard",
        {CORRUPT},
        _exchange("experts/layer-00.shard", "experts/layer-01.shard"),
    ),
    "experts-exchanged": Corruption("layer-00.shard", {CORRUPT}, _exchange_programs),
    "config-flipped": Corruption("config.json", {CORRUPT}, _flip("config.json", 3)),
    "config-missing": Corruption("config.json", {INVALID}, _remove("config.json")),
    "manifest-folder": Corruption("bundle.json", {INVALID}, _folder("bundle.json")),
    "manifest-fifo": Corruption("bundle.json", {INVALID}, _fifo("bundle.json")),
    "manifest-link": Corruption("bundle.json", {INVALID}, _link("bundle.json")),
    "manifest-missing": Corruption("bundle.json", {INVALID}, _remove("bundle.json")),
    "manifest-65-MiB": Corruption("bundle.json", {INVALID}, _append("bundle.json", b" " * 2**26)),
}  # fmt: skip


# --- the packed store ---


def _forge(name: str, change: Forge) -> Change:
    """Changes a packed file's header and index entries, and makes all checksums and the seal right
    again: what is behind them must hold too."""

    def apply(bundle: Path) -> None:
        packed = PackedBytes(find(bundle, name))
        change(packed.data, packed.entries)
        packed.save(machine_secret())

    return apply


def _put(
    entry: int, at: int, format: str, value: int
) -> Callable[[bytearray, list[bytearray]], None]:
    def change(data: bytearray, entries: list[bytearray]) -> None:
        struct.pack_into(format, entries[entry], at, value)

    return change


def _other_key(data: bytearray, entries: list[bytearray]) -> None:
    data[16:23] = b"qnnpack"


def _other_version(data: bytearray, entries: list[bytearray]) -> None:
    struct.pack_into("<I", data, 8, 3)


def _key_too_long(data: bytearray, entries: list[bytearray]) -> None:
    struct.pack_into("<I", data, 12, 0xFFFFFFFF)


def _swap_entries(data: bytearray, entries: list[bytearray]) -> None:
    """The whole of two experts, blobs, checksums and origins, in each other's place."""
    first, second = entries[1], entries[4]
    a, b = struct.unpack_from("<Q", first)[0], struct.unpack_from("<Q", second)[0]
    data[a : a + BLOB], data[b : b + BLOB] = data[b : b + BLOB], data[a : a + BLOB]
    first[8:], second[8:] = second[8:], first[8:]


def _swap_blobs(bundle: Path) -> None:
    path = find(bundle, "layer-00.packed")
    data = bytearray(path.read_bytes())
    a, b = slice(BLOB, 2 * BLOB), slice(3 * BLOB, 4 * BLOB)
    data[a], data[b] = data[b], data[a]
    path.write_bytes(data)


def _packed(name: str, change: Change) -> Corruption:
    return Corruption(name, {CORRUPT}, change)


def _each(name: str) -> dict[str, Corruption]:
    """What can happen to any file of the store."""
    short = name.removesuffix(".packed")
    return {
        f"{short}-flipped-magic": _packed(name, _flip(name, 0)),
        f"{short}-flipped-key": _packed(name, _flip(name, 20)),
        f"{short}-flipped-header-zeros": _packed(name, _flip(name, 9000)),
        f"{short}-flipped-blob": _packed(name, _flip(name, BLOB + 50)),
        f"{short}-flipped-index": _packed(name, _flip(name, -FOOTER - SEAL - 20)),
        f"{short}-flipped-seal": _packed(name, _flip(name, -FOOTER - 20)),
        f"{short}-flipped-footer": _packed(name, _flip(name, -20)),
        f"{short}-truncated": _packed(name, _truncate(name, -1)),
        f"{short}-cut-in-half": _packed(name, _truncate(name, 3 * BLOB + 77)),
        f"{short}-only-header": _packed(name, _truncate(name, BLOB)),
        f"{short}-empty": _packed(name, _truncate(name, 0)),
        f"{short}-zeros": _packed(name, _zero(name)),
        f"{short}-longer": _packed(name, _append(name, b"more")),
        f"{short}-folder": Corruption(name, {INVALID}, _folder(name)),
        f"{short}-fifo": Corruption(name, {INVALID}, _fifo(name)),
        f"{short}-link": Corruption(name, {INVALID}, _link(name)),
        f"{short}-forged-key": _packed(name, _forge(name, _other_key)),
        f"{short}-forged-version": _packed(name, _forge(name, _other_version)),
        f"{short}-forged-key-length": _packed(name, _forge(name, _key_too_long)),
        f"{short}-forged-offset": _packed(name, _forge(name, _put(1, 0, "<Q", BLOB))),
        f"{short}-forged-huge-offset": _packed(name, _forge(name, _put(1, 0, "<Q", 2**64 - BLOB))),
        f"{short}-forged-huge-length": _packed(name, _forge(name, _put(1, 8, "<Q", 2**64 - 1))),
        f"{short}-forged-no-length": _packed(name, _forge(name, _put(0, 8, "<Q", 0))),
        f"{short}-forged-crc": _packed(name, _forge(name, _put(1, 16, "<I", 0))),
        f"{short}-forged-origin": _packed(name, _forge(name, _put(1, 30, "<Q", 0))),
        f"{short}-forged-entry-missing": _packed(name, _forge(name, lambda d, e: e.pop())),
        f"{short}-forged-entry-twice": _packed(name, _forge(name, lambda d, e: e.append(e[-1]))),
        f"{short}-forged-no-entries": _packed(name, _forge(name, lambda d, e: e.clear())),
    }  # fmt: skip


PACKED: dict[str, Corruption] = {
    **_each("methods.packed"),
    **_each("layer-01.packed"),
    "layers-exchanged": _packed("layer-00.packed", _exchange("layer-00.packed", "layer-01.packed")),
    "packed-experts-exchanged": _packed(
        "layer-00.packed", _forge("layer-00.packed", _swap_entries)
    ),
    "packed-blobs-exchanged": _packed("layer-00.packed", _swap_blobs),
    "blob-too-short": _packed(
        "layer-00.packed", _forge("layer-00.packed", _put(0, 8, "<Q", BLOB // 4))
    ),
}
