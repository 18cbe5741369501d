# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Full disks, read-only places, and files that change under an open engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.files import contents
from tests.hostile.conftest import Reference
from tests.hostile.support import (
    CarefulRunner,
    ExportServer,
    copy_bundle,
    mounted,
    packed_folder,
    remount,
)

KIB = 1024


def error_of(answer: dict[str, object]) -> dict[str, str]:
    import json

    error: dict[str, str] = json.loads(str(answer["output"]))["error"]
    return error


def test_export_onto_a_disk_without_room(
    export_server: ExportServer, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        answer = export_server.run(tiny_checkpoint, disk / "bundle")
        assert answer["status"] == 7, answer
        error = error_of(answer)
        assert error["code"] == "disk_full"
        assert "KiB more, and" in error["cause"]
        assert not list(disk.iterdir())


def test_export_onto_a_disk_that_fills_up(
    export_server: ExportServer, tiny_checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    """Others may fill it after the export has looked."""
    with mounted(tmp_path / "disk", "size=4m") as disk:
        out, ballast = disk / "bundle", disk / "ballast"
        finished: set[str] = set()
        stops = set()
        for change in (8, 40, 90, 120):
            answer = export_server.run(tiny_checkpoint, out, fill_at=[change, str(ballast)])
            assert answer["status"] == 7, answer
            error = error_of(answer)
            assert error["code"] == "disk_full"
            assert error["file"].startswith(str(disk))
            assert not out.exists()
            stops.add(error["file"])
            ignored = ("export-journal.jsonl",)
            files = contents(disk / "bundle.partial", ignore=ignored)
            # The shard that grows stays, to be continued.
            files = {name: data for name, data in files.items() if not name.endswith(".tmp")}
            # Nothing under a final name but whole files, and never fewer of them.
            for name, data in files.items():
                # The files of the bundle may lie in a folder of their own within.
                assert data == (exported / name.removeprefix("bundle/")).read_bytes(), name
            assert finished <= files.keys()
            finished = set(files)
            ballast.unlink()
        assert finished
        assert any(name.endswith(".shard") for name in stops)
        answer = export_server.run(tiny_checkpoint, out)
        assert answer["status"] == 0, answer
        assert contents(out) == contents(exported)


def test_prepare_onto_a_disk_that_fills_up(
    exported: Path, reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    intact = contents(packed_folder(reference.bundle))
    with mounted(tmp_path / "disk", "size=2m") as disk:
        ballast = disk / "ballast"
        messages = []
        for free in range(0, 2048, 48):
            ballast.unlink(missing_ok=True)
            space = os.statvfs(disk)
            with ballast.open("wb") as file:
                file.write(bytes(max(0, space.f_bavail * space.f_frsize - free * KIB)))
            store = disk / "store"
            outcome = engine.run("prepare", bundle=str(exported), packed_dir=str(store))
            if store.exists():
                for name, data in contents(store, ignore=("lock",)).items():
                    assert data == intact[name], name
            if outcome.error is None:
                break
            assert outcome.error.code == "disk_full", outcome
            assert str(disk) in str(outcome.error.file)
            messages.append(outcome.error.cause)
        assert outcome.error is None, outcome
        assert len(messages) >= 3
        assert contents(store, ignore=("lock",)) == intact


@pytest.mark.parametrize("consume", [False, True])
def test_prepare_onto_a_disk_without_room(
    consume: bool, exported: Path, engine: CarefulRunner, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        bundle, store = copy_bundle(exported, tmp_path / "bundle"), str(disk / "store")
        outcome = engine.run("prepare", bundle=str(bundle), packed_dir=store, consume=consume)
        assert outcome.error is not None
        assert outcome.error.code == "disk_full"
        assert "choose another `packed_dir`" in str(outcome.error.remedy)
        assert ("consume" in str(outcome.error.remedy)) != consume


def test_open_on_a_full_disk(reference: Reference, engine: CarefulRunner, tmp_path: Path) -> None:
    """Slots need short-lived files: without room for them the error is clear."""
    with mounted(tmp_path / "disk", "size=8m") as disk:
        bundle = reference.copy(disk / "bundle")
        ballast = disk / "ballast"
        space = os.statvfs(disk)
        results = []
        for free in (0, 4, 8, 16, 64, 256, 1024):
            ballast.unlink(missing_ok=True)
            ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - free * KIB))
            outcome = engine.score(bundle)
            results.append(outcome)
            if outcome.error is not None:
                assert outcome.error.code == "disk_full", outcome
                assert str(disk) in str(outcome.error.file)
            else:
                assert outcome.result == reference.scores
        assert results[-1].error is None


def test_read_only_places(
    exported: Path, reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=8m") as disk:
        prepared = reference.copy(disk / "prepared")
        bare = disk / "bare"
        bare.mkdir()
        for name, data in contents(exported).items():
            (bare / name).parent.mkdir(parents=True, exist_ok=True)
            (bare / name).write_bytes(data)
        remount(disk, "ro")
        assert engine.run("verify", bundle=str(prepared)).error is None
        for outcome in (
            engine.run("prepare", bundle=str(bare)),
            engine.score(bare),
            engine.run("prepare", bundle=str(exported), packed_dir=str(disk / "store")),
        ):
            assert outcome.error is not None
            assert outcome.error.code == "read_only", outcome
            assert str(disk) in str(outcome.error.file)
        # What is prepared opens: slots take their short-lived files elsewhere.
        assert engine.run("prepare", bundle=str(prepared)).result["already_prepared"]
        for residency in ("slots", "resident", "programs"):
            outcome = engine.score(prepared, residency=residency)
            assert outcome.result == reference.scores, outcome
        # And what is not goes into a writable place.
        outcome = engine.score(bare, packed_dir=str(tmp_path / "store"))
        assert outcome.result == reference.scores, outcome


def test_export_into_a_read_only_place(
    export_server: ExportServer, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        remount(disk, "ro")
        answer = export_server.run(tiny_checkpoint, disk / "bundle")
        assert answer["status"] == 8, answer
        error = error_of(answer)
        assert error["code"] == "read_only"
        assert error["file"].startswith(str(disk))


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
@pytest.mark.parametrize("residency", ["slots", "programs"])
def test_file_truncated_under_an_open_engine(
    residency: str, direct: bool, reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    bundle = reference.copy(tmp_path / "bundle")
    outcome = engine.score(bundle, tokens=[5], residency=residency, direct=direct, cache="25%")
    assert outcome.error is None
    folder = packed_folder(bundle) if residency == "slots" else bundle / "experts"
    data = {path: path.read_bytes() for path in folder.glob("layer-*")}
    assert len(data) == 2
    for path in data:
        os.truncate(path, 0)
    tokens = list(range(3, 160, 3))
    failed = engine.run("score", token_ids=tokens)
    assert failed.error is not None
    assert failed.error.code == "bundle_corrupt", failed
    assert Path(str(failed.error.file)) in data
    # The bytes are back: the very same engine goes on as before.
    for path, content in data.items():
        with path.open("r+b") as file:
            file.write(content)
    again = engine.run("score", token_ids=tokens)
    assert again.error is None
    intact = engine.score(reference.bundle, tokens=tokens)
    assert again.result["log_probabilities"] == intact.result


def test_embedding_truncated_under_an_open_engine(
    reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    bundle = reference.copy(tmp_path / "bundle")
    assert engine.score(bundle, tokens=[5]).error is None
    os.truncate(bundle / "embedding.bin", 100)
    outcome = engine.run("generate", token_ids=[150], max_new_tokens=1)
    assert outcome.error is not None
    assert outcome.error.code == "bundle_corrupt"
    assert Path(str(outcome.error.file)).name == "embedding.bin"
