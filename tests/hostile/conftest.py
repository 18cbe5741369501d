# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A tiny exported and prepared bundle, made once, and the engine under AddressSanitizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import NativeBuild
from tests.hostile.support import CarefulRunner, ExportServer, copy_bundle, packed_folder
from tests.tiny import write_checkpoint


@pytest.fixture(scope="session")
def export_server() -> Iterator[ExportServer]:
    server = ExportServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Named by its path: the folder's name goes into the bundle.
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", "qwen3_moe")


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, export_server: ExportServer, tiny_checkpoint: Path
) -> Path:
    """The bundle of an uninterrupted export, not prepared. Not to be changed."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    export_server.finish(tiny_checkpoint, out)
    return out


@pytest.fixture(scope="session")
def engine(native_build: Callable[[str], NativeBuild]) -> Iterator[CarefulRunner]:
    """moe_runner with AddressSanitizer and UndefinedBehaviorSanitizer."""
    build = native_build("address")
    runner = CarefulRunner(build.program("moe_runner"), build.environment())
    yield runner
    runner.close()


@dataclass(frozen=True)
class Reference:
    """An intact prepared bundle, not to be changed, and its output."""

    bundle: Path
    scores: list[float]

    def copy(self, to: Path) -> Path:
        return copy_bundle(self.bundle, to)


@pytest.fixture(scope="session")
def reference(
    tmp_path_factory: pytest.TempPathFactory, exported: Path, engine: CarefulRunner
) -> Reference:
    bundle = copy_bundle(exported, tmp_path_factory.mktemp("prepared") / "bundle")
    assert engine.run("prepare", bundle=str(bundle)).error is None
    (packed_folder(bundle) / "lock").unlink()
    scored = engine.score(bundle)
    assert scored.error is None
    # Every expert is read: damage to any of them matters.
    loaded = engine.run("info").result["plan"]
    assert loaded["slots"] < loaded["num_experts"] == 16
    return Reference(bundle, scored.result)
