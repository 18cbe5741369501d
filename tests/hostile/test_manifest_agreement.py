# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Python's reader and the engine's accept the same manifests, and refuse the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mobile import _native
from moe_mobile.base.router import RouterSpec
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle import parse_manifest
from moe_mobile.bundle.writer import to_bytes
from moe_mobile.errors import MoeMobileError
from tests.bundle.damage import damage
from tests.hostile.manifest_cases import MANIFEST, NOT_UTF8, _deep

COUNTS = settings(
    max_examples=300,
    derandomize=True,
)


@pytest.fixture(scope="module")
def valid(exported: Path) -> bytes:
    return (exported / "bundle.json").read_bytes()


def code_of(read: Callable[[], object]) -> str:
    """What a reader says of a manifest: the code of its error, or that it is accepted."""
    try:
        read()
    except MoeMobileError as error:
        return error.code if error.file == "bundle.json" else f"names {error.file}"
    return "accepted"


def python_says(data: bytes) -> str:
    return code_of(lambda: parse_manifest(data, "bundle.json"))


def engine_says(data: bytes) -> str:
    return code_of(lambda: _native.check_manifest(data.decode(), "bundle.json"))


def test_the_manifest_is_accepted(valid: bytes) -> None:
    assert python_says(valid) == engine_says(valid) == "accepted"


ROUTERS = (
    RouterSpec("sigmoid", True, scale=2.5, epsilon=1e-20, groups=4, top_groups=2),
    RouterSpec("sigmoid", bias=((-0.5, 0.0, 1e-3, 2, 0.1, 0.2, 0.3, 0.4),) * 2),
    RouterSpec("softmax", groups=2, top_groups=1),
    RouterSpec("relu"),
    RouterSpec("relu", True, scale=2.5, epsilon=1e-6, groups=4, top_groups=2),
)


def with_router(data: bytes, router: RouterSpec) -> bytes:
    manifest = parse_manifest(data)
    return to_bytes(replace(manifest, moe=replace(manifest.moe, router=router)))


@pytest.mark.parametrize("router", ROUTERS)
def test_kinds_of_routers_are_accepted(router: RouterSpec, valid: bytes) -> None:
    data = with_router(valid, router)
    assert python_says(data) == engine_says(data) == "accepted"
    assert parse_manifest(data).moe.router == router


def test_further_precisions_are_accepted(valid: bytes) -> None:
    manifest = parse_manifest(valid)
    quant = "8da8w" if manifest.quantization.experts != "8da8w" else "fp32"
    layers = tuple(
        replace(
            layer,
            experts=replace(
                layer.experts,
                variants=(
                    m.Variant(
                        f"experts/further-{index}",
                        layer.experts.bytes,
                        layer.experts.sha256,
                        layer.experts.programs,
                        quantization=quant,
                    ),
                ),
            ),
        )
        if layer.experts is not None
        else layer
        for index, layer in enumerate(manifest.layers)
    )
    facts = m.memory_facts(
        layers=layers,
        head=manifest.head,
        embedding=manifest.embedding,
        top_k=manifest.moe.top_k,
    )
    data = to_bytes(replace(manifest, layers=layers, memory=facts))
    assert python_says(data) == engine_says(data) == "accepted"
    assert parse_manifest(data).precisions == (manifest.quantization.experts, quant)


@pytest.mark.parametrize("case", MANIFEST)
def test_both_readers_refuse_broken_manifests(case: str, valid: bytes) -> None:
    code, corrupt = MANIFEST[case]
    data = corrupt(valid)
    assert (python_says(data), engine_says(data)) == (code, code)


@pytest.mark.parametrize("case", NOT_UTF8)
def test_python_refuses_bytes_that_are_not_text(case: str, valid: bytes) -> None:
    assert python_says(NOT_UTF8[case](valid)) == "bundle_invalid"


@pytest.mark.parametrize("levels", range(12, 20))
def test_both_readers_allow_the_same_nesting(levels: int, valid: bytes) -> None:
    data = _deep(levels)(valid)
    assert python_says(data) == engine_says(data)


def values(value: object) -> int:
    """As both readers count them: keys too, and the two ends of an object or array."""
    if isinstance(value, dict):
        return 2 + len(value) + sum(map(values, value.values()))
    return 2 + sum(map(values, value)) if isinstance(value, list) else 1


def test_both_readers_allow_the_same_number_of_values(valid: bytes) -> None:
    def with_zeros(count: int) -> bytes:
        zeros = b",".join([b"0"] * count)
        return valid.replace(b'"provenance": {', b'"provenance": {"z": [' + zeros + b"],", 1)

    room = (4 << 20) - values(json.loads(with_zeros(0)))
    for count, said in ((room, "accepted"), (room + 1, "bundle_invalid")):
        data = with_zeros(count)
        assert python_says(data) == engine_says(data) == said, count - room


@COUNTS
@given(data=st.data())
def test_mutated_manifests(data: st.DataObject, valid: bytes) -> None:
    manifest = json.loads(with_router(valid, data.draw(st.sampled_from(ROUTERS))))
    for _ in range(data.draw(st.integers(1, 2))):
        damage(data.draw, manifest)
    text = json.dumps(manifest, ensure_ascii=False)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        encoded = json.dumps(manifest).encode()
    python, engine = python_says(encoded), engine_says(encoded)
    assert (python == "accepted") == (engine == "accepted"), (python, engine)


@COUNTS
@given(data=st.data())
def test_manifests_with_broken_bytes(data: st.DataObject, valid: bytes) -> None:
    broken = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1))
        new = data.draw(st.sampled_from(list(b'{}[]:,"\\/-+.eE0123456789 \n\0tfnu\x7f\x01')))
        if data.draw(st.booleans()):
            broken[at] = new
        else:
            broken.insert(at, new)
    python, engine = python_says(bytes(broken)), engine_says(bytes(broken))
    assert (python == "accepted") == (engine == "accepted"), (python, engine)
