# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Room on the disk is looked for before any work."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from moe_mobile.bundle.manifest import ALIGNMENT
from moe_mobile.bundle.quantization import QuantizationSettings
from moe_mobile.demo import checkpoint_dir
from moe_mobile.errors import (
    CheckpointError,
    DiskFullError,
    MoeMobileError,
    UnsupportedError,
    UsageError,
)
from moe_mobile.export import RandomWeights, export_bundle, exporter
from moe_mobile.export.options import resolve_options
from moe_mobile.export.plan import make_plan
from moe_mobile.export.space import bundle_bytes
from moe_mobile.export.workspace import open_workspace
from moe_mobile.model import source
from moe_mobile.model.source import open_model
from tests.bundles import FEW_ROWS, BundleMaker, CheckpointMaker
from tests.export.made_of import made_of
from tests.hostile.support import mounted
from tests.tiny import FAMILIES

MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "quant"), [*((family, "fp32") for family in FAMILIES), ("qwen3_moe", "8da4w")]
)
def test_a_bundle_is_as_large_as_computed(
    name: str, quant: str, checkpoint: CheckpointMaker, bundle: BundleMaker
) -> None:
    model = open_model(checkpoint(name))
    options = resolve_options(quant, max_batch=FEW_ROWS)
    computed = bundle_bytes(model, options, make_plan(model.architecture, options))
    # Other tests may have prepared it.
    there = [path for path in bundle(name, quant).rglob("*") if path.is_file()]
    files = [path for path in there if ".packed" not in path.parts]
    actual = sum(path.stat().st_size for path in files)
    assert actual <= computed
    # For an expert there may be one unit of alignment more, and half of one for any other file.
    shards = [path for path in files if path.suffix == ".shard"]
    experts = len(shards) * model.architecture.moe.num_experts
    assert computed <= actual + ALIGNMENT * (experts + len(files) / 2)


@pytest.mark.slow
def test_a_layer_of_full_size_is_as_large_as_computed(tmp_path: Path) -> None:
    source = RandomWeights("OLMoE-1B-7B", layers=1, vocab_size=2048)
    model, options = open_model(source), resolve_options("8da4w")
    computed = bundle_bytes(model, options, make_plan(model.architecture, options))
    out = export_bundle(source, tmp_path / "out", "8da4w")
    actual = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert actual <= computed <= 1.005 * actual


def test_a_model_that_no_disk_holds(tmp_path: Path) -> None:
    out = tmp_path / "above" / "out"
    with pytest.raises(DiskFullError) as caught:
        export_bundle(RandomWeights("Mixtral-8x7B", layers=4096), out, "fp32")
    assert re.fullmatch(
        r"the bundle needs about 2\d\.\d TiB more, and [\d.]+ [GMT]iB are free", caught.value.cause
    )
    assert "Free some space" in (caught.value.remedy or "")
    assert list((tmp_path / "above").iterdir()) == []


@pytest.mark.parametrize("what", ["room", "both", "group size", "name", "other"])
def test_what_speaks_against_an_export_is_found_before_a_download(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "snapshot"
    shutil.copytree(checkpoint_dir(), folder)
    weights = folder / "model.safetensors"
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    weights.unlink()
    if what == "both":
        files[weights.name] = 1 << 60

    def no_fetch(*_: object) -> None:
        pytest.fail("weights were fetched")

    monkeypatch.setattr(source, "fetch_description", lambda *_: folder)
    monkeypatch.setattr(source, "list_files", lambda *_: files)
    monkeypatch.setattr(source, "fetch_weights", no_fetch)
    if what == "room":
        monkeypatch.setattr(exporter, "bundle_bytes", lambda *_: 1 << 60)
    quant = QuantizationSettings("8da4w", group_size=128 if what == "group size" else 32)
    refusals: dict[str, tuple[type[MoeMobileError], str]] = {
        "room": (DiskFullError, "the bundle and the weights to be downloaded need about"),
        "both": (DiskFullError, "the bundle and the weights to be downloaded need about"),
        "group size": (UnsupportedError, "not a multiple of the group size 128"),
        "name": (UsageError, "is not 1 to"),
        "other": (UsageError, "an export of another checkpoint, .* was interrupted here"),
    }
    if what == "other":
        with open_workspace(tmp_path / "out", made_of(), overwrite=False) as space:
            assert space is not None
            space.write("dense/a.pte", lambda file: file.write(b"kept"))
    kind, said = refusals[what]
    name = "x" * 1000 if what == "name" else None
    with pytest.raises(kind, match=said):
        export_bundle("org/model", tmp_path / "out", quant, name=name)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("config.json", 4), ("model.safetensors.index.json", 64), ("tokenizer.json", 256)],
)
def test_small_files_that_are_huge_are_not_downloaded(
    name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "list_files", lambda *_: {name: (limit << 20) + 1})
    monkeypatch.setattr(source, "fetch_description", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(CheckpointError, match=f"larger than {limit} MiB") as caught:
        export_bundle("org/model", tmp_path / "out")
    assert caught.value.file == f"org/model/{name}"


def test_what_is_there_already_needs_no_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        out = disk / "out"
        with open_workspace(out, made_of(), overwrite=False, needed=3 * MIB) as space:
            assert space is not None
            space.write("dense/a.pte", lambda file: file.write(bytes(2 * MIB)))
        left = os.statvfs(disk)
        assert left.f_bavail * left.f_frsize < 3 * MIB
        other = open_workspace(disk / "other", made_of(), overwrite=False, needed=3 * MIB)
        with pytest.raises(DiskFullError, match=r"needs about 3\.0 MiB more"):
            other.__enter__()
        assert [entry.name for entry in disk.iterdir()] == ["out.partial"]
        # The same export continues, and another one deletes what this one left.
        for inputs in (made_of(), made_of("other")):
            with open_workspace(out, inputs, overwrite=True, needed=3 * MIB) as space:
                assert space is not None
                assert (space.finished("dense/a.pte") is None) == (inputs != made_of())


def test_a_refused_export_keeps_what_is_there(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        with open_workspace(disk / "out", made_of(), overwrite=False) as space:
            assert space is not None
            record = space.write("dense/a.pte", lambda file: file.write(b"kept"))
        refused = open_workspace(disk / "out", made_of(), overwrite=False, needed=8 * MIB)
        with pytest.raises(DiskFullError, match="needs about"):
            refused.__enter__()
        with open_workspace(disk / "out", made_of(), overwrite=False, needed=2 * MIB) as space:
            assert space is not None
            assert space.finished("dense/a.pte") == record
