# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Ways to break ``bundle.json``, each with the code of the error it must give."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

INVALID, UNSUPPORTED, CORRUPT = "bundle_invalid", "unsupported", "bundle_corrupt"
Json = dict[str, Any]

HUGE = 2**53


def _edit(change: Callable[[Json], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        manifest = json.loads(data)
        change(manifest)
        return json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode()

    return apply


def _set(place: str, value: Any) -> Callable[[bytes], bytes]:
    """Sets the member at a place such as ``layers.0.dense.path``."""

    def change(manifest: Json) -> None:
        at: Any = manifest
        *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
        for parent in parents:
            at = at[parent]
        at[last] = value

    return _edit(change)


def _router(**members: Any) -> Callable[[bytes], bytes]:
    """Sets members of the router's description."""
    return _edit(lambda manifest: manifest["moe"]["router"].update(members))


def _raw(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return apply


def _programs(manifest: Json, layer: int = 0) -> list[Json]:
    programs: list[Json] = manifest["layers"][layer]["experts"]["programs"]
    return programs


def _variants(*changes: Json, layers: int = 2) -> Callable[[bytes], bytes]:
    """Gives the first layers further precisions: copies of their experts with these changes."""

    def change(manifest: Json) -> None:
        for layer in manifest["layers"][:layers]:
            experts = layer["experts"]
            path = experts["path"]
            experts["variants"] = [
                {**experts, "path": f"{path}.{i}", "quantization": "fp32", **one}
                for i, one in enumerate(changes)
            ]

    return _edit(change)


def _swap_programs(manifest: Json) -> None:
    programs = _programs(manifest)
    programs[0], programs[1] = programs[1], programs[0]


def _overlap(manifest: Json) -> None:
    programs = _programs(manifest)
    programs[1]["offset"] = programs[0]["offset"]


def _swap_head(manifest: Json) -> None:
    head, dense = manifest["head"], manifest["layers"][0]["dense"]
    head["path"], dense["path"] = dense["path"], head["path"]


def _grow_shard(manifest: Json) -> None:
    manifest["layers"][0]["experts"]["bytes"] += 16384


def _deep(levels: int) -> Callable[[bytes], bytes]:
    return _raw(
        b'"provenance": {', b'"provenance": {"deep": ' + b"[" * levels + b"]" * levels + b","
    )


def _unread(value: bytes) -> Callable[[bytes], bytes]:
    """Puts a value where nobody reads it."""
    return _raw(b'"provenance": {', b'"provenance": {"x": ' + value + b",")


def _amplitude(value: bytes) -> Callable[[bytes], bytes]:
    return _raw(b'"amplitude": 1.0', b'"amplitude": ' + value)


# Refused by reading the manifest alone, in Python and in C++.
MANIFEST: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty": (INVALID, lambda data: b""),
    "blanks-only": (INVALID, lambda data: b" \n" * 50),
    "truncated": (INVALID, lambda data: data[: len(data) // 2]),
    "last-brace-missing": (INVALID, lambda data: data.rstrip()[:-1]),
    "two-documents": (INVALID, lambda data: data + data),
    "nul-and-more": (INVALID, lambda data: data + b"\0garbage"),
    "byte-order-mark": (INVALID, lambda data: b"\xef\xbb\xbf" + data),
    "not-an-object": (INVALID, lambda data: b"[" + data + b"]"),
    "a-number": (INVALID, lambda data: b"1"),
    "comment": (INVALID, lambda data: b"/* moe */" + data),
    "trailing-comma": (INVALID, _raw(b"{", b'{"a": 1,,')),
    "duplicate-key": (INVALID, _raw(b'"format"', b'"version": 1, "format"')),
    "duplicate-key-deep": (INVALID, _raw(b'"kind"', b'"window": 0, "kind"')),
    "deep-nesting": (INVALID, _deep(100)),
    "very-deep-nesting": (INVALID, _deep(200_000)),
    "number-beyond-double": (INVALID, _amplitude(b'1e999')),
    "number-beyond-double-unread": (INVALID, _unread(b'1e999')),
    "digits-without-end": (INVALID, _amplitude(b'1' + b"0" * 320)),
    "digits-far-without-end": (INVALID, _amplitude(b'1' + b"0" * 9000)),
    "nan": (INVALID, _amplitude(b'NaN')),
    "infinity-unread": (INVALID, _unread(b'Infinity')),
    "lone-surrogate": (INVALID, _unread(b'"\\ud800"')),
    "no-format": (INVALID, _edit(lambda m: m.pop("format"))),
    "other-format": (INVALID, _set("format", "moe-mobile")),
    "version-2": (UNSUPPORTED, _set("version", 2)),
    "version-0": (UNSUPPORTED, _set("version", 0)),
    "version-text": (INVALID, _set("version", "1")),
    "version-fraction": (INVALID, _set("version", 1.0)),
    "version-true": (INVALID, _set("version", True)),
    "version-minus-zero": (INVALID, _raw(b'"version": 1', b'"version": -0')),
    "unknown-member": (INVALID, _set("extra", 1)),
    "missing-member": (INVALID, _edit(lambda m: m.pop("max_batch"))),
    "member-of-wrong-type": (INVALID, _set("layers", {})),
    "null-model": (INVALID, _set("model", None)),
    "negative-size": (INVALID, _set("head.bytes", -1)),
    "negative-vocabulary": (INVALID, _set("model.vocab_size", -160)),
    "fractional-size": (INVALID, _raw(b'"max_batch": 16', b'"max_batch": 16.5')),
    "exponent": (INVALID, _raw(b'"max_batch": 16', b'"max_batch": 16e0')),
    "size-2-to-53": (INVALID, _set("layers.0.experts.programs.7.bytes", HUGE)),
    "size-2-to-64": (INVALID, _set("head.bytes", 2**64)),
    "size-wraps-around": (INVALID, _set("layers.0.experts.programs.7.bytes", 2**64 - 16384)),
    "offset-2-to-53": (INVALID, _set("layers.0.experts.programs.7.offset", HUGE)),
    "misaligned-offset": (INVALID, _set("layers.0.experts.programs.1.offset", 4096)),
    "overlapping-programs": (INVALID, _edit(_overlap)),
    "descending-programs": (INVALID, _edit(_swap_programs)),
    "program-beyond-shard": (INVALID, _set("layers.0.experts.programs.7.bytes", 1 << 20)),
    "program-of-no-bytes": (INVALID, _set("layers.0.experts.programs.0.bytes", 0)),
    "program-missing": (INVALID, _edit(lambda m: _programs(m).pop())),
    "shard-too-long": (INVALID, _edit(_grow_shard)),
    "more-layers-than-said": (INVALID, _edit(lambda m: m["layers"].append(m["layers"][0]))),
    "no-layers": (INVALID, _set("layers", [])),
    "path-escapes": (INVALID, _set("head.path", "../head.pte")),
    "path-escapes-inside": (INVALID, _set("head.path", "dense/../../head.pte")),
    "path-absolute": (INVALID, _set("head.path", "/etc/passwd")),
    "path-empty": (INVALID, _set("head.path", "")),
    "path-of-a-folder": (INVALID, _set("head.path", "dense/")),
    "path-with-backslash": (INVALID, _set("head.path", "dense\\head.pte")),
    "path-with-nul": (INVALID, _set("head.path", "dense/head.pte\0")),
    "path-not-ascii": (INVALID, _set("head.path", "dense/hëad.pte")),
    "path-endless": (INVALID, _set("head.path", "a" * 4096)),
    "path-is-the-manifest": (INVALID, _set("files.0.path", "bundle.json")),
    "path-into-packed": (INVALID, _set("files.0.path", ".packed/lock")),
    "path-listed-twice": (INVALID, _set("files.0.path", "embedding.bin")),
    "hash-upper-case": (INVALID, _edit(lambda m: m["head"].update(sha256="A" * 64))),
    "hash-too-short": (INVALID, _set("head.sha256", "ab" * 31)),
    "hash-null": (INVALID, _set("embedding.sha256", None)),
    "vocabulary-lies": (INVALID, _set("model.vocab_size", 161)),
    "hidden-size-lies": (INVALID, _set("model.hidden_size", 128)),
    "top-k-above-experts": (INVALID, _set("moe.top_k", 9)),
    "top-k-zero": (INVALID, _set("moe.top_k", 0)),
    "memory-lies": (INVALID, _set("memory.expert_bytes", 1)),
    "heads-not-a-multiple": (INVALID, _set("attention.num_kv_heads", 3)),
    "scale-zero": (INVALID, _set("attention.scale", 0)),
    "scale-beyond-float": (INVALID, _set("attention.scale", 1e39)),
    "rotates-too-much": (INVALID, _set("attention.rope.inverse_frequencies", [1.0] * 17)),
    "end-token-outside": (INVALID, _set("model.eos_token_ids", [160])),
    "end-tokens-repeated": (INVALID, _set("model.eos_token_ids", [2, 2])),
    "row-bytes-lie": (INVALID, _set("embedding.row_bytes", 64)),
    "unknown-quantization": (UNSUPPORTED, _set("quantization.experts", "2da2w")),
    "unknown-delegate": (UNSUPPORTED, _set("delegate.name", "vulkan")),
    "delegate-upper-case": (UNSUPPORTED, _set("delegate.name", "XNNPACK")),
    "delegate-of-a-layer-unknown": (UNSUPPORTED, _set("layers.0.dense.delegate", "qnn")),
    "delegate-of-experts-unknown": (UNSUPPORTED, _set("layers.0.experts.delegate", "qnn")),
    "delegate-of-the-head-unknown": (UNSUPPORTED, _set("head.delegate", "qnn")),
    "delegate-of-a-layer-null": (INVALID, _set("layers.0.dense.delegate", None)),
    "delegate-of-experts-an-object": (INVALID, _set("layers.0.experts.delegate", {"name": "qnn"})),
    "delegate-of-the-head-empty": (INVALID, _set("head.delegate", "")),
    "delegate-of-the-embedding": (INVALID, _set("embedding.delegate", "portable")),
    "delegate-of-a-file": (INVALID, _set("files.0.delegate", "portable")),
    "delegate-of-one-expert": (INVALID, _set("layers.0.experts.programs.0.delegate", "portable")),
    "variants-empty": (INVALID, _variants()),
    "variants-of-one-layer": (INVALID, _variants({}, layers=1)),
    "variants-too-many": (UNSUPPORTED, _variants({}, {})),
    "variant-twice": (INVALID, _variants({"quantization": "8da4w", "group_size": 32})),
    "variant-unknown": (UNSUPPORTED, _variants({"quantization": "2da2w"})),
    "variant-without-group-size": (INVALID, _variants({"quantization": "8da4w"})),
    "variant-with-group-size": (INVALID, _variants({"group_size": 32})),
    "variant-group-size-48": (INVALID, _variants({"quantization": "8da4w", "group_size": 48})),
    "variant-delegate-unknown": (UNSUPPORTED, _variants({"delegate": "qnn"})),
    "variant-path-twice": (INVALID, _variants({"path": "experts/layer-00.shard"})),
    "variant-programs-missing": (INVALID, _variants({"programs": []})),
    "variant-of-a-variant": (INVALID, _variants({"variants": []})),
    "variant-changes-memory": (INVALID, _variants({})),
    "unknown-mixer": (UNSUPPORTED, _set("layers.0.mixer.kind", "mamba")),
    "unknown-router": (UNSUPPORTED, _set("moe.router.score", "tanh")),
    "router-scale-zero": (INVALID, _set("moe.router.scale", 0)),
    "router-scale-text": (INVALID, _set("moe.router.scale", "2")),
    "router-epsilon-negative": (INVALID, _router(renormalize=True, epsilon=-1e-6)),
    "router-epsilon-of-nothing": (INVALID, _router(renormalize=False, epsilon=1e-6)),
    "router-groups-uneven": (INVALID, _router(groups=3, top_groups=3)),
    "router-groups-zero": (INVALID, _router(groups=0)),
    "router-too-many-top-groups": (INVALID, _router(groups=4, top_groups=5)),
    "router-top-groups-of-one": (INVALID, _router(top_groups=2)),
    "router-groups-too-small": (INVALID, _router(groups=8, top_groups=1)),
    "router-bias-of-softmax": (INVALID, _router(bias=[[0.0] * 8] * 2)),
    "router-bias-of-relu": (INVALID, _router(score="relu", bias=[[0.0] * 8] * 2)),
    "router-bias-too-short": (INVALID, _router(score="sigmoid", bias=[[0.0] * 7] * 2)),
    "router-bias-of-one-layer": (INVALID, _router(score="sigmoid", bias=[[0.0] * 8])),
    "router-bias-empty": (INVALID, _router(score="sigmoid", bias=[])),
    "router-bias-text": (INVALID, _router(score="sigmoid", bias=[["0"] * 8] * 2)),
    "router-bias-too-large": (INVALID, _router(score="sigmoid", bias=[[1e39] * 8] * 2)),
    "router-bias-flat": (INVALID, _router(score="sigmoid", bias=[0.0] * 16)),
    "router-bias-null": (INVALID, _router(score="sigmoid", bias=None)),
    "no-kind-of-mixer": (INVALID, _set("layers.0.mixer", {"window": 0})),
    "mixer-of-another-type": (INVALID, _set("layers.0.mixer", [])),
    "no-window": (INVALID, _set("layers.0.mixer", {"kind": "attention"})),
    "own-heads-that-do-not-fit": (INVALID, _set("layers.0.mixer.num_kv_heads", 3)),
    "own-heads-of-zero": (INVALID, _set("layers.0.mixer.num_kv_heads", 0)),
    "own-head-dim-below-the-rotation": (INVALID, _set("layers.0.mixer.head_dim", 1)),
    "own-scale-not-positive": (INVALID, _set("layers.0.mixer.scale", -1)),
    "own-rope-too-long": (
        INVALID,
        _set(
            "layers.0.mixer.rope", {"inverse_frequencies": [1.0] * 999, "amplitude": 1.0}
        ),
    ),
    "own-kv-dtype": (INVALID, _set("layers.0.mixer.kv_dtype", "float16")),
    "convolution-without-width": (
        INVALID,
        _set("layers.0.mixer", {"kind": "convolution", "kernel": 3}),
    ),
    "convolution-of-one-tap": (
        INVALID,
        _set("layers.0.mixer", {"kind": "convolution", "kernel": 1, "width": 8}),
    ),
    "convolution-too-long": (
        INVALID,
        _set("layers.0.mixer", {"kind": "convolution", "kernel": 17, "width": 8}),
    ),
    "convolution-with-a-window": (
        INVALID,
        _set("layers.0.mixer", {"kind": "convolution", "kernel": 3, "width": 8, "window": 0}),
    ),
    "group-size-odd": (INVALID, _set("quantization.group_size", 33)),
    "control-character": (INVALID, _set("model.name", "a\x07b")),
    "name-endless": (INVALID, _set("model.name", "x" * 100_000)),
}  # fmt: skip

# Bytes that no Python string holds.
NOT_UTF8: dict[str, Callable[[bytes], bytes]] = {
    "not-utf-8": _unread(b'"\xff\xfe"'),
    "overlong-utf-8": _unread(b'"\xc0\xaf"'),
    "utf-16": lambda data: data.decode().encode("utf-16"),
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: bytes((i * 197 + 89) % 256 for i in range(len(data))),
}

# Well formed, but not what the files hold: found when the named file is met.
LIES: dict[str, tuple[set[str], str, Callable[[bytes], bytes]]] = {
    "hash-of-embedding": ({CORRUPT}, "embedding.bin", _set("embedding.sha256", "0" * 64)),
    "hash-of-dense": ({CORRUPT}, "dense/layer-01.pte", _set("layers.1.dense.sha256", "0" * 64)),
    "hash-of-head": ({CORRUPT}, "dense/head.pte", _set("head.sha256", "0" * 64)),
    "hash-of-shard": ({CORRUPT}, "layer-00.shard", _set("layers.0.experts.sha256", "0" * 64)),
    "length-of-file": ({INVALID}, "config.json", _set("files.0.bytes", 5)),
    "hash-of-file": ({CORRUPT}, "config.json", _set("files.0.sha256", "0" * 64)),
    "missing-file": ({INVALID}, "nothing.json", _set("files.0.path", "nothing.json")),
    "file-is-a-folder": ({INVALID}, "dense", _set("files.0.path", "dense")),
    "file-below-a-file": ({INVALID}, "head.pte", _set("files.0.path", "dense/head.pte/x")),
    "head-is-a-layer": ({INVALID, CORRUPT}, "layer-00.pte", _edit(_swap_head)),
}  # fmt: skip
