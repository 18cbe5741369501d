# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Checking a bundle's files against its manifest, and saying what a bundle holds."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moe_mobile.base.files import open_regular
from moe_mobile.base.progress import Progress, silent
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle.packed import packed_folder
from moe_mobile.bundle.reader import parse_manifest, read_manifest_bytes
from moe_mobile.errors import BundleCorruptError, BundleInvalidError, MoeMobileError, read_error

_CHUNK = 4 << 20

_AGAIN = "Copy or export the bundle again"
_CONSUMED = f"{_AGAIN}, or name the `packed_dir` for which it was deleted"


def verify_bundle(path: str | os.PathLike[str], progress: Progress = silent) -> str:
    """Reads every byte of a bundle and compares it with the manifest.

    Checks the manifest, that every file is a regular file of its length, the SHA-256 of each file
    and of each expert's program, and that the gaps between programs are zero. ``progress`` counts
    bytes in the stage "verify"; its detail is the file.

    Returns:
        The bundle hash (SHA-256 of ``bundle.json``).

    Raises:
        BundleInvalidError, UnsupportedError: the manifest or a file's kind or length is wrong.
        BundleCorruptError: bytes differ from their hash.
        IoError: a file cannot be read.
    """
    bundle = Path(path)
    data = read_manifest_bytes(bundle)
    manifest = parse_manifest(data, str(bundle / m.MANIFEST_FILE))
    check_files(bundle, manifest)
    files = list(manifest.all_files())
    shards = {shard.path: shard for layer in manifest.layers for shard in layer.shards}
    done, total = 0, sum(file.bytes for file in files)
    for file in files:
        progress("verify", done, total, file.path)
        _verify_file(bundle, file, shards.get(file.path), done, total, progress)
        done += file.bytes
    progress("verify", total, total)
    return hashlib.sha256(data).hexdigest()


def check_files(bundle: Path, manifest: m.Manifest, *, shards_may_be_gone: bool = False) -> int:
    """Raises a BundleInvalidError unless every file is a regular file of its length.

    Returns:
        The number of shards that are gone, because ``prepare --consume`` deleted them.
    """
    shards = {shard.path for layer in manifest.layers for shard in layer.shards}
    gone = 0
    for file in manifest.all_files():
        path = bundle / file.path
        for parent in reversed(path.relative_to(bundle).parents[:-1]):
            if (bundle / parent).is_symlink():
                raise BundleInvalidError(
                    "is a symbolic link, not a folder",
                    file=bundle / parent,
                    remedy="Put the folder itself there, or move the whole bundle",
                )
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            if shards_may_be_gone and file.path in shards:
                gone += 1
                continue
            raise BundleInvalidError(
                "file of the bundle is missing",
                file=path,
                remedy=_CONSUMED if file.path in shards else _AGAIN,
            ) from None
        except OSError as error:
            raise read_error(error, path) from error
        if stat.S_ISLNK(status.st_mode):
            raise BundleInvalidError(
                "is a symbolic link", file=path, remedy="Put the file itself there"
            )
        if not stat.S_ISREG(status.st_mode):
            raise BundleInvalidError("is not a regular file", file=path, remedy=_AGAIN)
        if status.st_size != file.bytes:
            raise BundleInvalidError(
                f"has {status.st_size} bytes, the manifest says {file.bytes}",
                file=path,
                remedy=_AGAIN,
            )
    return gone


def inspect_bundle(
    path: str | os.PathLike[str], packed_dir: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """What a bundle holds, as a JSON-ready object; reads the manifest and file lengths only.

    Args:
        path: the bundle's folder.
        packed_dir: the packed weights that replace consumed shards, if not in the bundle.

    Raises:
        BundleInvalidError, UnsupportedError, IoError: as :func:`verify_bundle`.
        UsageError: the packed weights lie behind a link, which the engine does not follow.
    """
    bundle = Path(path)
    data = read_manifest_bytes(bundle)
    manifest = parse_manifest(data, str(bundle / m.MANIFEST_FILE))
    # A prepared bundle may have given its shards away; whether its store is whole is the engine's
    # to say.
    store = packed_folder(bundle, packed_dir)
    consumed = check_files(bundle, manifest, shards_may_be_gone=store.is_dir())
    moe_layers = len(manifest.moe_layers)
    mixers = [layer.mixer for layer in manifest.layers]
    attention = [mixer for mixer in mixers if isinstance(mixer, m.AttentionMixer)]
    return {
        "path": str(bundle),
        "hash": hashlib.sha256(data).hexdigest(),
        "version": m.VERSION,
        "model": asdict(manifest.model),
        "attention": {k: v for k, v in asdict(manifest.attention).items() if k != "rope"},
        "moe": {**asdict(manifest.moe), "layers": moe_layers},
        "windows": sorted({mixer.window for mixer in attention}),
        "convolutions": len(manifest.layers) - len(attention),
        "kv_bytes_per_token": sum(_kv_bytes(mixer, manifest.attention) for mixer in attention),
        "quantization": {"name": manifest.quantization.name, **asdict(manifest.quantization)},
        "expert_precisions": manifest.precisions,
        "delegate": {
            **asdict(manifest.delegate),
            "dense": manifest.dense_delegates,
            "experts": manifest.expert_delegates,
        },
        "max_batch": manifest.max_batch,
        "memory": asdict(manifest.memory),
        "bytes": len(data) + sum(file.bytes for file in manifest.all_files()),
        "consumed_shards": consumed,
        "num_files": 1 + sum(1 for _ in manifest.all_files()),
        "provenance": manifest.provenance,
    }


def _kv_bytes(mixer: m.AttentionMixer, common: m.Attention) -> int:
    """Bytes of one position's keys and values in one layer."""
    heads = mixer.num_kv_heads or common.num_kv_heads
    width = mixer.head_dim or common.head_dim
    return 2 * heads * width * (2 if common.kv_dtype == "float16" else 4)


def _verify_file(
    bundle: Path,
    file: m.File,
    shard: m.Shard | None,
    done: int,
    total: int,
    progress: Progress,
) -> None:
    path = bundle / file.path
    digest, position = hashlib.sha256(), 0
    programs = None if shard is None else _Programs(path, shard)
    try:
        with open_regular(path) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                if programs is not None:
                    programs.update(memoryview(chunk))
                position += len(chunk)
                progress("verify", done + position, total, file.path)
    except OSError as error:
        raise read_error(error, path) from error
    if digest.hexdigest() != file.sha256:
        raise BundleCorruptError("bytes differ from their SHA-256", file=path, remedy=_AGAIN)
    if programs is not None:
        programs.check()


class _Programs:
    """Compares a shard's programs and gaps with the manifest, chunk by chunk: any may be huge.

    A manifest may state a right hash of the shard and wrong ones of its programs.
    """

    def __init__(self, path: Path, shard: m.Shard) -> None:
        self._path = path
        self._shard = shard
        # Program i and the gap before it, then the gap at the end: where each one ends.
        self._ends = [end for p in shard.programs for end in (p.offset, p.offset + p.bytes)]
        self._ends.append(shard.bytes)
        self._part = 0
        self._position = 0
        self._digest = hashlib.sha256()
        self._fault: MoeMobileError | None = None

    def update(self, chunk: memoryview) -> None:
        """The shard's next bytes. Those beyond its length are not looked at."""
        while self._part < len(self._ends):
            taken = chunk[: self._ends[self._part] - self._position]
            if self._part % 2:
                self._digest.update(taken)
            elif taken.tobytes() != bytes(len(taken)):
                self._note(BundleInvalidError, f"bytes {self._gap()} are not zero")
            self._position += len(taken)
            chunk = chunk[len(taken) :]
            if self._position < self._ends[self._part]:
                return
            if self._part % 2:
                self._end_program()
            self._part += 1

    def check(self) -> None:
        """Raises what the first fault calls for."""
        if self._fault is not None:
            raise self._fault

    def _gap(self) -> str:
        index = self._part // 2
        programs = len(self._shard.programs)
        return f"before program {index}" if index < programs else "after the last program"

    def _end_program(self) -> None:
        index = self._part // 2
        if self._digest.hexdigest() != self._shard.programs[index].sha256:
            self._note(BundleCorruptError, f"program {index} differs from its SHA-256")
        self._digest = hashlib.sha256()

    def _note(self, kind: type[MoeMobileError], cause: str) -> None:
        if self._fault is None:
            self._fault = kind(cause, file=self._path, remedy=_AGAIN)
