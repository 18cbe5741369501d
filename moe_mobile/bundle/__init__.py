# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The bundle format in Python: manifest, strict reader, writer, verification."""

from moe_mobile.bundle.manifest import Manifest
from moe_mobile.bundle.reader import parse_manifest, read_manifest
from moe_mobile.bundle.verify import inspect_bundle, verify_bundle

__all__ = [
    "Manifest",
    "inspect_bundle",
    "parse_manifest",
    "read_manifest",
    "verify_bundle",
]
