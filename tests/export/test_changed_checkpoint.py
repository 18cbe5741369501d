# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""An interrupted export of a checkpoint that was touched, copied or changed meanwhile."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from moe_mobile import export
from moe_mobile.errors import CancelledError, UsageError
from moe_mobile.model import safetensors
from tests.bundles import FEW_ROWS
from tests.files import contents
from tests.tiny import EXPERTS, write_checkpoint

export_bundle = functools.partial(export.export_bundle, quant="fp32", max_batch=FEW_ROWS)

EXPERT = "model.layers.{}.block_sparse_moe.experts.{}.w1.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", "mixtral")


@pytest.fixture
def out(tmp_path: Path, source: Path) -> Path:
    """Where an export stopped after two experts of the second layer."""

    def interrupt(stage: str, done: int, total: int, detail: str = "") -> None:
        if detail == "layer 1, expert 2":
            raise KeyboardInterrupt

    with pytest.raises(CancelledError):
        export_bundle(source, tmp_path / "out", progress=interrupt)
    return tmp_path / "out"


def made(source: Path, out: Path, *, overwrite: bool = False) -> list[str]:
    """The experts that an export made; what it wrote is what an export of its own gives."""
    steps: list[str] = []

    def progress(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "export" and ", expert " in detail:
            steps.append(detail)

    export_bundle(source, out, overwrite=overwrite, progress=progress)
    fresh = export_bundle(source, out.with_name("fresh"))
    assert contents(out) == contents(fresh)
    return steps


def change(source: Path, name: str) -> None:
    """One value of a tensor, without its file's header or length."""
    path = source / "model.safetensors"
    tensors = load_file(path)
    tensors[name][-1, -1] += 1
    save_file(tensors, path, metadata={"format": "pt"})


REST = [f"layer 1, expert {expert}" for expert in range(2, EXPERTS)]


def test_a_touched_checkpoint_continues(source: Path, out: Path) -> None:
    os.utime(source / "model.safetensors", ns=(1, 1))
    assert made(source, out) == REST


def test_a_copy_under_another_name_continues(source: Path, out: Path) -> None:
    copy = Path(shutil.copytree(source, source.with_name("copy")))
    os.utime(copy / "model.safetensors", ns=(1, 1))
    assert made(copy, out) == REST
    manifest = json.loads((out / "bundle.json").read_text())
    assert (manifest["model"]["name"], manifest["provenance"]["source"]) == ("copy", "copy")


def test_other_weights_are_refused_before_any_work(source: Path, out: Path) -> None:
    kept = contents(out.with_name("out.partial"))
    write_checkpoint(source, "mixtral", seed=3)
    with pytest.raises(UsageError, match="has changed since") as caught:
        export_bundle(source, out, progress=lambda *_: pytest.fail("it works"))
    assert caught.value.file == str(out)
    assert f"files are complete and {EXPERTS + 2} experts are made" in caught.value.cause
    assert contents(out.with_name("out.partial")) == kept
    assert len(made(source, out, overwrite=True)) == 2 * EXPERTS


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint sees nothing of the weights, as it misses a small change of large ones."""
    monkeypatch.setattr(safetensors, "_SAMPLES", 1)
    monkeypatch.setattr(safetensors, "_SAMPLE_BYTES", 1)


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("name", [EXPERT.format(0, 5), EXPERT.format(1, 1), "lm_head.weight"])
def test_what_the_fingerprint_does_not_see(name: str, source: Path, out: Path) -> None:
    kept = contents(out.with_name("out.partial"))
    change(source, name)
    os.utime(source / "model.safetensors", ns=(1, 1))  # whatever the clock's steps
    if name == "lm_head.weight":  # not made yet
        assert made(source, out) == REST
        return
    with pytest.raises(UsageError, match="of weights that have changed since"):
        export_bundle(source, out)
    after = contents(out.with_name("out.partial"))
    assert {path: after[path] for path in kept if "journal" not in path} == {
        path: kept[path] for path in kept if "journal" not in path
    }

    def interrupt(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "export" and detail.endswith(", expert 1"):
            raise KeyboardInterrupt

    # Once it may begin anew, what it makes continues as usual.
    with pytest.raises(CancelledError):
        export_bundle(source, out, overwrite=True, progress=interrupt)
    steps = made(source, out)
    assert "layer 1, expert 2" in steps
    assert ("layer 0, expert 0" in steps, "layer 1, expert 0" in steps) == (False, False)
    # The other shard is of the same weights, and stays.
    assert len(steps) == (EXPERTS - 1 + len(REST) if ".layers.0." in name else EXPERTS - 1)
