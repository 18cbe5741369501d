# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: tiny checkpoints and their bundles, each made once per test run.

A plugin of all tests, so that folders share what it made. It imports PyTorch on use only: native
tests have no need of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest


@dataclass(frozen=True)
class Case:
    """A tiny random model: a family and what differs from its tiny configuration."""

    family: str
    changes: dict[str, Any] = field(default_factory=dict)


CASES = {
    # Each family's tiny configuration. Mixtral's has a sliding window of 12 positions; the head of
    # Qwen3-MoE is its embedding.
    "mixtral": Case("mixtral"),
    "qwen2_moe": Case("qwen2_moe"),
    "qwen3_moe": Case("qwen3_moe"),
    "olmoe": Case("olmoe"),
    # Short convolutions in three of four layers, one of them with a dense MLP.
    "lfm2_moe": Case("lfm2_moe"),
    # Nine query heads on three key-value heads, of a width that is not a power of two.
    "mixtral-odd-heads": Case(
        "mixtral",
        {
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 20,
            "sliding_window": None,
        },
    ),
    "qwen2_moe-normed": Case("qwen2_moe", {"norm_topk_prob": True}),
    "qwen3_moe-untied": Case("qwen3_moe", {"tie_word_embeddings": False}),
    # On any machine an expert takes more slots' pages in 8da8w than in 8da4w.
    "qwen3_moe-wide": Case(
        "qwen3_moe", {"tie_word_embeddings": False, "moe_intermediate_size": 192}
    ),
    "qwen3_moe-dense-layer": Case("qwen3_moe", {"mlp_only_layers": [0], "norm_topk_prob": False}),
}

SHARED = "MOE_TEST_SHARED"
"""The environment variable that names the folder which the processes of a test run share."""

FEW_ROWS = 16
"""``max_batch`` of the tests' bundles: a prompt takes several batches. One number for all, since a
program for another number of rows is lowered anew."""

CheckpointMaker = Callable[[str], Path]


class DemoMaker(Protocol):
    """Returns the demo model's bundle in a quantization, by default an export's."""

    def __call__(self, quant: str = ...) -> Path: ...


class BundleMaker(Protocol):
    """Returns the bundle of one of the ``CASES`` in a quantization, by default an export's.

    ``max_batch``: rows per call of a program, by default ``FEW_ROWS``.
    """

    def __call__(self, name: str, quant: str = ..., max_batch: int = ...) -> Path: ...


@pytest.fixture
def demo_copy(tmp_path: Path) -> Path:
    """The demo's checkpoint, to be changed."""
    from moe_mobile.demo import checkpoint_dir

    shutil.copytree(checkpoint_dir(), tmp_path / "demo")
    return tmp_path / "demo"


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of a test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    for name in ("lowered", "unfinished"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.environ[SHARED] = str(folder)  # for processes of the tests
    return folder


@pytest.fixture(scope="session")
def lowered_once(shared: Path) -> Iterator[None]:
    """From here on, a program with the same parameters is lowered once."""
    from tests.lowering import remembered_lowering

    with remembered_lowering(shared / "lowered"):
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointMaker:
    """A function that returns the checkpoint of one of the ``CASES``."""
    from tests.tiny import write_checkpoint

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            case = CASES[name]
            folder = tmp_path_factory.mktemp(name)
            made[name] = write_checkpoint(folder, case.family, **case.changes)
        return made[name]

    return make


class OnceMaker(Protocol):
    """Returns a folder of that name that ``make`` filled, called by one process of a test run;
    each process gets a copy of its own, so that what it does there stays there."""

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path: ...


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory, shared: Path, lowered_once: None
) -> OnceMaker:
    """Exports take seconds, and pytest-xdist's workers want the same ones."""

    def made(name: str, make: Callable[[Path], object]) -> Path:
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / name).exists():
                make(shared / "unfinished" / name)
                (shared / "unfinished" / name).rename(shared / name)
        copy = tmp_path_factory.mktemp("made") / name
        shutil.copytree(shared / name, copy)
        return copy

    return made


@pytest.fixture(scope="session")
def bundle(made_once: OnceMaker, checkpoint: CheckpointMaker) -> BundleMaker:
    from moe_mobile.bundle.quantization import DEFAULT_QUANT
    from moe_mobile.export import export_bundle

    made: dict[tuple[str, str, int], Path] = {}

    def make(name: str, quant: str = DEFAULT_QUANT, max_batch: int = FEW_ROWS) -> Path:
        key = (name, quant, max_batch)
        if key not in made:
            made[key] = made_once(
                f"{name}-{quant}-{max_batch}",
                lambda out: export_bundle(checkpoint(name), out, quant, max_batch=max_batch),
            )
        return made[key]

    return make


@pytest.fixture(scope="session")
def demo_bundle(made_once: OnceMaker) -> DemoMaker:
    """A function that returns the demo model's bundle in a quantization."""
    from moe_mobile.bundle.quantization import DEFAULT_QUANT
    from moe_mobile.export import export_bundle

    made: dict[str, Path] = {}

    def make(quant: str = DEFAULT_QUANT) -> Path:
        if quant not in made:
            made[quant] = made_once(f"demo-{quant}", lambda out: export_bundle("demo", out, quant))
        return made[quant]

    return make
