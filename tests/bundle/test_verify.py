# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""verify and inspect: every changed byte is found, and the error names the file."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from moe_mobile.bundle import Manifest, inspect_bundle, verify_bundle
from moe_mobile.bundle.manifest import ALIGNMENT
from moe_mobile.bundle.packed import packed_stores
from moe_mobile.bundle.writer import to_bytes, to_json
from moe_mobile.errors import BundleCorruptError, BundleInvalidError, IoError, UsageError
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
    refused("is a symbolic link")
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
    refused("is a symbolic link, not a folder")


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


def test_a_huge_gap_is_read_in_pieces(bundle: tuple[Path, Manifest]) -> None:
    """A sparse file has one at no cost. All of it is checked, and progress goes on within it."""
    path, manifest = bundle
    value = to_json(manifest)
    entry = value["layers"][shard_layer(manifest)]["experts"]
    shard, gap = path / entry["path"], 64 << 20
    data = shard.read_bytes()
    for program in entry["programs"]:
        program["offset"] += gap
    entry["bytes"] += gap
    with shard.open("wb") as file:
        file.seek(gap)
        file.write(data)

    def check() -> list[int]:
        entry["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
        (path / "bundle.json").write_text(json.dumps(value, ensure_ascii=False))
        steps: list[int] = []

        def note(stage: str, done: int, total: int, detail: str = "") -> None:
            if not steps:
                tracemalloc.reset_peak()  # the manifest was read into a large buffer
            steps.append(done)

        tracemalloc.start()
        try:
            verify_bundle(path, note)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < gap / 2
        return steps

    steps = check()
    assert max(after - before for before, after in pairwise(steps)) < gap / 2
    with shard.open("r+b") as file:
        file.seek(gap - 1)
        file.write(b"x")
    with pytest.raises(BundleInvalidError, match="bytes before program 0 are not zero"):
        check()


@pytest.mark.parametrize("link", [".packed", ".packed/cpu", "packed", "inside/link/cpu"])
def test_inspect_follows_no_link_to_packed_weights(
    link: str, bundle: tuple[Path, Manifest], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As the engine, which reads and writes nothing behind one."""
    path, _ = bundle
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "cpu").mkdir()
    (elsewhere / "cpu/methods.packed").write_bytes(b"x")
    own = path / ".packed"
    assert packed_stores(path) == []
    at = path / (link.removesuffix("/cpu") if "inside" in link else link)
    at.parent.mkdir(exist_ok=True)
    at.symlink_to(elsewhere / ("cpu" if link == ".packed/cpu" else ""))
    named = None if link.startswith(".packed") else path / link
    with pytest.raises(UsageError, match="through a link") as caught:
        packed_stores(path, named)
    assert caught.value.file == str(at)
    if link != ".packed/cpu":
        with pytest.raises(UsageError, match="through a link"):
            inspect_bundle(path, named)
    # A link on the way to the bundle, or to a folder elsewhere, is the user's.
    at.unlink()
    (elsewhere / "way").symlink_to(elsewhere)
    assert packed_stores(path, elsewhere / "way/cpu") == [(elsewhere / "way/cpu", 1)]
    own.mkdir(exist_ok=True)
    (own / "cpu").mkdir()
    (own / "cpu/layer-00.packed").symlink_to(elsewhere / "cpu/methods.packed")
    assert packed_stores(path) == []


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
    shard = manifest.layers[shard_layer(manifest)].experts
    assert shard is not None
    whole = os.open

    def fail(file: Any, *arguments: Any, **options: Any) -> Any:
        if file == path / shard.path:
            raise OSError(5, "Input/output error")
        return whole(file, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(IoError, match="Input/output error") as caught:
        verify_bundle(path)
    assert caught.value.file == str(path / shard.path)


def test_the_manifest_bytes_are_canonical(bundle: tuple[Path, Manifest]) -> None:
    path, manifest = bundle
    assert (path / "bundle.json").read_bytes() == to_bytes(manifest)
