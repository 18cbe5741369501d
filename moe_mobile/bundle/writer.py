# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Writing ``bundle.json``: canonical bytes, validated by the reader before they are written."""

from __future__ import annotations

import dataclasses
from typing import Any

from moe_mobile.base.json_text import json_text
from moe_mobile.base.router_json import router_to_json
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
            programs += [layer["experts"], *layer["experts"]["variants"]]
            for variant in layer["experts"]["variants"]:
                if variant["group_size"] is None:
                    del variant["group_size"]
            if not layer["experts"]["variants"]:
                del layer["experts"]["variants"]
        layer["mixer"] = {k: v for k, v in layer["mixer"].items() if v is not None}
    for program in programs:
        if program["delegate"] is None:
            del program["delegate"]
    value["moe"]["router"] = router_to_json(manifest.moe.router)
    return {"format": FORMAT, "version": VERSION, **value}


def to_bytes(manifest: Manifest) -> bytes:
    """The canonical content of ``bundle.json``.

    Raises:
        BundleInvalidError: the manifest breaks the format.
    """
    from moe_mobile.bundle.reader import parse_manifest

    text = json_text(to_json(manifest), indent=2, sort_keys=True, ascii=False)
    data = (text + "\n").encode()
    parse_manifest(data)
    return data
