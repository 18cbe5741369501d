# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Writing ``bundle.json``: canonical bytes, validated by the reader before they are written."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from moe_mobile.base.router import RouterSpec
from moe_mobile.bundle.manifest import FORMAT, VERSION, Manifest


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as the JSON object that ``bundle.json`` holds."""
    value: dict[str, Any] = dataclasses.asdict(manifest)
    programs = [value["head"]]
    for layer in value["layers"]:
        programs.append(layer["dense"])
        if layer["experts"] is None:
            del layer["experts"]
        else:
            programs.append(layer["experts"])
    for program in programs:
        if program["delegate"] is None:
            del program["delegate"]
    router = value["moe"]["router"]
    for name, default in dataclasses.asdict(RouterSpec()).items():
        if name not in ("score", "renormalize") and router[name] == default:
            del router[name]
    return {"format": FORMAT, "version": VERSION, **value}


def to_bytes(manifest: Manifest) -> bytes:
    """The canonical content of ``bundle.json``.

    Raises:
        BundleInvalidError: the manifest breaks the format.
    """
    from moe_mobile.bundle.reader import parse_manifest

    text = json.dumps(
        to_json(manifest), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    data = (text + "\n").encode()
    parse_manifest(data)
    return data
