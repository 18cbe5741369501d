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

from moe_mobile.base.progress import Progress, silent
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle.reader import parse_manifest, read_manifest_bytes
from moe_mobile.errors import BundleCorruptError, BundleInvalidError, read_error

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
                    "is a link, not a folder", file=bundle / parent, remedy=_AGAIN
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
    """
    bundle = Path(path)
    data = read_manifest_bytes(bundle)
    manifest = parse_manifest(data, str(bundle / m.MANIFEST_FILE))
    # A prepared bundle may have given its shards away; whether its store is whole is the engine's
    # to say.
    store = bundle / ".packed" if packed_dir is None else Path(packed_dir)
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
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                position += len(chunk)
                progress("verify", done + position, total, file.path)
            if digest.hexdigest() != file.sha256:
                raise BundleCorruptError(
                    "bytes differ from their SHA-256", file=path, remedy=_AGAIN
                )
            if shard is not None:
                _verify_programs(path, stream.fileno(), shard)
    except OSError as error:
        raise read_error(error, path) from error


def _verify_programs(path: Path, descriptor: int, shard: m.Shard) -> None:
    """A manifest may state a right hash of the shard and wrong ones of its programs."""
    end = 0
    for index, program in enumerate(shard.programs):
        if any(os.pread(descriptor, program.offset - end, end)):
            raise BundleInvalidError(
                f"bytes before program {index} are not zero", file=path, remedy=_AGAIN
            )
        data = os.pread(descriptor, program.bytes, program.offset)
        if hashlib.sha256(data).hexdigest() != program.sha256:
            raise BundleCorruptError(
                f"program {index} differs from its SHA-256", file=path, remedy=_AGAIN
            )
        end = program.offset + program.bytes
    if any(os.pread(descriptor, shard.bytes - end, end)):
        raise BundleInvalidError(
            "bytes after the last program are not zero", file=path, remedy=_AGAIN
        )
