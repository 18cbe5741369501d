# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints and bundles, made once per test run and shared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from moe_mobile.export import export_bundle, exporter, lowering, template
from moe_mobile.export.shapes import ProgramShape
from tests.tiny import write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors only lose by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def remembered_lowering() -> Iterator[None]:
    """Lowers a program with the same parameters once per test run: it takes seconds."""
    known: dict[tuple[ProgramShape, str], bytes] = {}

    def lower(shape: ProgramShape, weights: Mapping[str, torch.Tensor]) -> bytes:
        digest = hashlib.sha256()
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        key = (shape, digest.hexdigest())
        if key not in known:
            known[key] = lowering.lower(shape, weights)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template, "lower", lower)
        patch.setattr(exporter, "lower", lower)
        yield


CheckpointMaker = Callable[[str], Path]
BundleMaker = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointMaker:
    """A function that returns the tiny checkpoint of a family."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = write_checkpoint(tmp_path_factory.mktemp(family), family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: CheckpointMaker) -> BundleMaker:
    """A function that returns the bundle of a family's tiny checkpoint in a quantization."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str, quant: str) -> Path:
        if (family, quant) not in made:
            out = tmp_path_factory.mktemp("bundles") / f"{family}-{quant}"
            made[family, quant] = export_bundle(checkpoint(family), out, quant)
        return made[family, quant]

    return make
