# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The manifest survives a round trip; random damage is refused or harmless, never a crash."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mobile.base.router import RouterSpec
from moe_mobile.bundle import parse_manifest
from moe_mobile.bundle.manifest import ALIGNMENT, Manifest
from moe_mobile.bundle.writer import to_bytes, to_json
from moe_mobile.errors import BundleInvalidError, MoeMobileError
from tests.bundle.damage import damage
from tests.bundle.samples import sample

seeds = st.integers(0, 2**32)


@given(seeds)
def test_round_trip(seed: int) -> None:
    manifest, _ = sample(seed)
    data = to_bytes(manifest)
    assert parse_manifest(data) == manifest
    assert to_bytes(parse_manifest(data)) == data
    text = data.decode()
    assert text.endswith("}\n")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@given(seeds)
def test_spacing_and_order_do_not_matter_to_the_reader(seed: int) -> None:
    manifest, _ = sample(seed)
    assert parse_manifest(json.dumps(to_json(manifest)).encode()) == manifest


@settings(max_examples=600)
@given(seed=seeds, data=st.data())
def test_random_damage_is_refused_or_harmless(seed: int, data: st.DataObject) -> None:
    value = to_json(sample(seed)[0])
    for _ in range(data.draw(st.integers(1, 2))):
        damage(data.draw, value)
    text = json.dumps(value)
    try:
        manifest = parse_manifest(text.encode())
    except MoeMobileError as error:
        assert error.code in ("bundle_invalid", "unsupported")  # noqa: PT017
        assert error.file == "bundle.json"  # noqa: PT017
        return
    # Accepted: nothing may have been dropped or reinterpreted, and the format's rules hold. Only
    # members of the router that state their default are not written again.
    expected = json.loads(text)
    router = expected["moe"]["router"]
    for name, default in dataclasses.asdict(RouterSpec()).items():
        if name not in ("score", "renormalize") and router.get(name, ...) == default:
            del router[name]
    assert json.loads(json.dumps(to_json(manifest))) == expected
    require_rules(manifest)


def require_rules(manifest: Manifest) -> None:
    """The rules of docs/bundle-format.md, written down independently of the reader."""
    a, q, moe = manifest.attention, manifest.quantization, manifest.moe
    files = list(manifest.all_files())
    assert len({file.path for file in files}) == len(files)
    for file in files:
        assert len(file.path.encode()) <= 200
        assert not file.path.startswith(("/", ".packed/"))
        assert not {"", ".", ".."} & set(file.path.split("/"))
        assert len(file.sha256) == 64
        assert set(file.sha256) <= set("0123456789abcdef")
    assert len(manifest.layers) == manifest.model.num_layers
    assert a.num_heads % a.num_kv_heads == 0
    assert 2 * len(a.rope.inverse_frequencies) <= a.head_dim
    assert a.scale > 0
    assert a.kv_dtype in ("float16", "float32")
    assert 1 <= moe.top_k <= moe.num_experts
    assert (q.group_size in (32, 64, 128, 256)) == ("8da4w" in (q.experts, q.dense, q.head))
    assert q.embedding == manifest.embedding.dtype
    assert manifest.embedding.bytes == manifest.model.vocab_size * manifest.embedding.row_bytes
    stops = manifest.model.eos_token_ids
    assert list(stops) == sorted(set(stops))
    assert all(0 <= token < manifest.model.vocab_size for token in stops)
    sizes = []
    moe_layers = [layer.experts for layer in manifest.layers if layer.experts is not None]
    for experts in moe_layers:
        for shard in (experts, *experts.variants):
            end = 0
            for program in shard.programs:
                assert program.offset >= end
                assert program.offset % ALIGNMENT == 0
                end = program.offset + program.bytes
                sizes.append(program.bytes)
            assert len(shard.programs) == moe.num_experts
            assert shard.bytes == (end + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    memory = manifest.memory
    assert memory.experts_bytes == sum(sizes)
    assert memory.token_cycle_bytes == len(moe_layers) * moe.top_k * max(sizes, default=0)
    assert memory.dense_bytes == manifest.head.bytes + sum(
        layer.dense.bytes for layer in manifest.layers
    )


@settings(max_examples=300)
@given(seed=seeds, data=st.data())
def test_flipped_bytes_never_crash(seed: int, data: st.DataObject) -> None:
    content = bytearray(to_bytes(sample(seed)[0]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        require_rules(parse_manifest(bytes(content)))
    except MoeMobileError as error:
        assert error.file == "bundle.json"  # noqa: PT017


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BundleInvalidError):
        parse_manifest(data)


def test_the_writer_refuses_an_invalid_manifest() -> None:
    manifest, _ = sample(1)
    with pytest.raises(BundleInvalidError, match="max_batch"):
        to_bytes(dataclasses.replace(manifest, max_batch=0))
