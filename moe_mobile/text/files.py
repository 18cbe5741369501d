# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face files in a bundle, checked against the hashes in its manifest."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Sequence

from moe_mobile.base import limits
from moe_mobile.base.files import read_regular
from moe_mobile.errors import BundleCorruptError, BundleInvalidError


def read_files(bundle: pathlib.Path, names: Sequence[str]) -> dict[str, bytes]:
    """Contents of the files, of those that the bundle has.

    Raises the bundle reader's errors, also for a file that is too large, IoError, and
    BundleCorruptError for other bytes than were exported.
    """
    from moe_mobile.bundle import read_manifest

    contents = {}
    for file in read_manifest(bundle).files:
        if file.path not in names:
            continue
        path = bundle / file.path
        if file.bytes > limits.CHECKPOINT_FILE_BYTES:
            raise BundleInvalidError(
                f"is larger than {limits.CHECKPOINT_FILE_BYTES >> 20} MiB",
                file=path,
                remedy="Export the bundle again from a complete checkpoint",
            )
        data = read_regular(path, file.bytes)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise BundleCorruptError(
                "bytes differ from their SHA-256",
                file=path,
                remedy="Copy or export the bundle again",
            )
        contents[file.path] = data
    return contents
