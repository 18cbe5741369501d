# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""verify and inspect: every changed byte is found, and the error names the file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from moe_mobile.bundle import Manifest, inspect_bundle, verify_bundle
from moe_mobile.bundle.manifest import ALIGNMENT
from moe_mobile.bundle.writer import to_bytes, to_json
from moe_mobile.errors import BundleCorruptError, BundleInvalidError, IoError
from tests.bundle.samples import sample, write_sample

# A sample with experts, and with gaps between them.
SEED = next(
    seed
    for seed in range(100)
    if any(
        layer.experts is not None and any(p.bytes % ALIGNMENT for p in layer.experts.programs)
        for layer in sample(seed)[0].layers
    )
)


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, Manifest]:
    manifest, _ = write_sample(tmp_path, SEED)
    return tmp_path, manifest


def test_a_whole_bundle(bundle: tuple[Path, Manifest]) -> None:
    path, manifest = bundle
    steps: list[tuple[int, int, str]] = []

    def note(stage: str, done: int, total: int, detail: str = "") -> None:
        assert stage == "verify"
        steps.append((done, total, detail))

    digest = verify_bundle(path, note)
    assert digest == hashlib.sha256((path / "bundle.json").read_bytes()).hexdigest()
    total = sum(file.bytes for file in manifest.all_files())
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert steps[-1] == (total, total, "")
    assert {name for _, _, name in steps} - {""} == {f.path for f in manifest.all_files()}


def test_every_file_is_hashed(bundle: tuple[Path, Manifest]) -> None:
    path, manifest = bundle
    for file in manifest.all_files():
        if not file.bytes:
            continue
        data = bytearray((path / file.path).read_bytes())
        data[len(data) // 2] ^= 4
        (path / file.path).write_bytes(data)
        with pytest.raises(BundleCorruptError, match="SHA-256") as caught:
            verify_bundle(path)
        assert caught.value.file == str(path / file.path)
        data[len(data) // 2] ^= 4
        (path / file.path).write_bytes(data)
    verify_bundle(path)


def test_lengths_and_kinds_of_files(bundle: tuple[Path, Manifest]) -> None:
    path, manifest = bundle
    head = path / manifest.head.path
    data = head.read_bytes()
    elsewhere = path / "elsewhere"
    elsewhere.write_bytes(data)

    def refused(cause: str) -> None:
        for check in (verify_bundle, inspect_bundle):
            with pytest.raises(BundleInvalidError, match=cause) as caught:
                check(path)
            assert str(caught.value.file).startswith(str(head.parent))

    head.write_bytes(data + b"x")
    refused(f"has {len(data) + 1} bytes, the manifest says {len(data)}")
    head.unlink()
    refused("is missing")
    head.symlink_to(elsewhere)
    refused("is not a regular file")
    head.unlink()
    head.mkdir()
    refused("is not a regular file")
    head.rmdir()
    os.mkfifo(head)
    refused("is not a regular file")
    head.unlink()
    head.write_bytes(data)
    verify_bundle(path)
    os.rename(path / "dense", path / "real")
    (path / "dense").symlink_to("real")
    refused("is a link")


def shard_layer(manifest: Manifest) -> int:
    return next(i for i, layer in enumerate(manifest.layers) if layer.experts is not None)


def rewrite(
    path: Path, manifest: Manifest, shard: bytes, programs: list[Any] | None = None
) -> None:
    """Writes a shard and a manifest that states its hash: only finer checks can find the fault."""
    index = shard_layer(manifest)
    value = to_json(manifest)
    entry = value["layers"][index]["experts"]
    (path / entry["path"]).write_bytes(shard)
    entry["sha256"] = hashlib.sha256(shard).hexdigest()
    if programs is not None:
        entry["programs"] = programs
    (path / "bundle.json").write_text(json.dumps(value, ensure_ascii=False))


def test_programs_have_hashes_of_their_own(bundle: tuple[Path, Manifest]) -> None:
    path, manifest = bundle
    shard = manifest.layers[shard_layer(manifest)].experts
    assert shard is not None
    data = bytearray((path / shard.path).read_bytes())
    data[shard.programs[-1].offset] ^= 1
    rewrite(path, manifest, bytes(data))
    with pytest.raises(BundleCorruptError, match=f"program {len(shard.programs) - 1} differs"):
        verify_bundle(path)


def test_gaps_are_zero(bundle: tuple[Path, Manifest]) -> None:
    path, manifest = bundle
    shard = manifest.layers[shard_layer(manifest)].experts
    assert shard is not None
    whole = (path / shard.path).read_bytes()
    gaps = 0
    for program in shard.programs:
        end = program.offset + program.bytes
        if end % ALIGNMENT == 0:
            continue
        gaps += 1
        data = bytearray(whole)
        data[end] = 1
        rewrite(path, manifest, bytes(data))
        with pytest.raises(BundleInvalidError, match="are not zero"):
            verify_bundle(path)
    assert gaps


def test_inspect_describes_a_bundle(bundle: tuple[Path, Manifest]) -> None:
    path, manifest = bundle
    facts = inspect_bundle(path)
    assert facts["hash"] == verify_bundle(path)
    assert facts["bytes"] == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    assert facts["model"]["name"] == manifest.model.name
    assert facts["memory"]["experts_bytes"] == manifest.memory.experts_bytes
    assert facts["num_files"] == len(list(manifest.all_files())) + 1


def test_a_path_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalidError, match=r"bundle\.json is missing"):
        verify_bundle(tmp_path)
    with pytest.raises(BundleInvalidError):
        inspect_bundle(tmp_path / "absent")


def test_a_file_that_cannot_be_read(
    bundle: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, manifest = bundle

    def fail(*arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(IoError, match="Input/output error") as caught:
        verify_bundle(path)
    shard = manifest.layers[shard_layer(manifest)].experts
    assert shard is not None
    assert caught.value.file == str(path / shard.path)


def test_the_manifest_bytes_are_canonical(bundle: tuple[Path, Manifest]) -> None:
    path, manifest = bundle
    assert (path / "bundle.json").read_bytes() == to_bytes(manifest)
