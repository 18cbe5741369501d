# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle that takes a while to send."""

from __future__ import annotations

import hashlib
import json
import pathlib
import random
import shutil

import pytest

from tests.bundles import BundleMaker

_EXTRA_FILES = 3
_EXTRA_BYTES = 40 << 20


def with_extra_files(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A copy of a bundle with large files beside it, which its manifest lists."""
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
    return bundle("qwen3_moe", "8da4w")


@pytest.fixture(scope="session")
def large_bundle(
    tiny_bundle: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """120 MiB more."""
    return with_extra_files(tiny_bundle, tmp_path_factory.mktemp("large") / "bundle")
