# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Bundles that take a while to send, and that take much memory."""

from __future__ import annotations

import hashlib
import json
import pathlib
import random
import shutil

import pytest

from tests.bundles import FEW_ROWS, BundleMaker, OnceMaker

_EXTRA_FILES = 3
_EXTRA_BYTES = 40 << 20


def with_extra_files(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A copy of a bundle with further large files, which its manifest lists."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".packed"))
    manifest = json.loads((target / "bundle.json").read_text())
    chance = random.Random(7)
    for index in range(_EXTRA_FILES):
        data = chance.randbytes(_EXTRA_BYTES)
        path = f"extra-{index}.bin"
        (target / path).write_bytes(data)
        manifest["files"].append(
            {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
    (target / "bundle.json").write_text(json.dumps(manifest))
    return target


@pytest.fixture(scope="session")
def tiny_bundle(bundle: BundleMaker) -> pathlib.Path:
    """A few hundred KiB."""
    return bundle("qwen3_moe")


@pytest.fixture(scope="session")
def large_bundle(
    tiny_bundle: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """120 MiB more."""
    return with_extra_files(tiny_bundle, tmp_path_factory.mktemp("large") / "bundle")


@pytest.fixture(scope="session")
def wide_bundle(made_once: OnceMaker, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """48 MiB of experts, 16 in one layer; everything else is small; a token uses 2 of them.
    Its context is long enough for a run that lasts."""
    from moe_mobile.export import export_bundle
    from tests.tiny import write_checkpoint

    source = write_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "wide",
        "qwen3_moe",
        num_hidden_layers=1,
        num_experts=16,
        moe_intermediate_size=4096,
        max_position_embeddings=16384,
    )
    return made_once("wide", lambda out: export_bundle(source, out, "fp32", max_batch=FEW_ROWS))
