# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face files in a bundle, checked against the hashes in its manifest."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from moe_mobile.base import limits
from moe_mobile.base.files import read_regular
from moe_mobile.base.json_field import too_many_values
from moe_mobile.errors import BundleCorruptError, BundleInvalidError

_AGAIN = "Export again from a complete checkpoint"


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


def parse_object(bundle: pathlib.Path, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The JSON object in one of the files of :func:`read_files`; empty without it.

    Raises BundleInvalidError.
    """
    if name not in files:
        return {}
    if too_many_values(files[name]):
        raise BundleInvalidError("holds too many values", file=bundle / name, remedy=_AGAIN)
    try:
        value = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise BundleInvalidError(
            f"is not valid JSON: {error}", file=bundle / name, remedy=_AGAIN
        ) from error
    if not isinstance(value, dict):
        raise BundleInvalidError("must hold a JSON object", file=bundle / name, remedy=_AGAIN)
    return value
