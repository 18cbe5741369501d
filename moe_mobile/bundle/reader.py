# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading and validating ``bundle.json``, member by member as docs/bundle-format.md has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from moe_mobile.base.files import read_regular
from moe_mobile.base.json_field import (
    MAX_INTEGER,
    MAX_MANIFEST_BYTES,
    JsonField,
    parse_strict_json,
)
from moe_mobile.base.router_json import parse_router
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle.quantization import (
    EMBEDDINGS,
    GROUP_SIZES,
    QUANTS,
    Quant,
    embedding_row_bytes,
)
from moe_mobile.bundle.unfinished import require_bundle
from moe_mobile.errors import BundleInvalidError, UnsupportedError

_AGAIN = "Copy or export the bundle again"
_TOKENS = 2**24
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMPONENT = re.compile(r"[A-Za-z0-9._-]+")
_FILE_MEMBERS = ("path", "bytes", "sha256")
_MEMBERS = (
    "format", "version", "model", "attention", "moe", "quantization", "delegate", "max_batch",
    "embedding", "layers", "head", "files", "memory", "provenance",
)  # fmt: skip


def read_manifest(bundle: Path) -> m.Manifest:
    """The validated manifest of the bundle in this folder.

    Raises:
        BundleInvalidError: it breaks the format; the message names the member.
        UnsupportedError: a version, delegate or quantization this build does not know.
        IoError: it cannot be read.
    """
    return parse_manifest(read_manifest_bytes(bundle), str(bundle / m.MANIFEST_FILE))


def read_manifest_bytes(bundle: Path) -> bytes:
    """The bytes of ``bundle.json``; at most one more than the format allows is read."""
    require_bundle(bundle)
    path = bundle / m.MANIFEST_FILE
    if path.is_symlink():
        raise BundleInvalidError(
            "is a symbolic link", file=path, remedy="Put the file itself there"
        )
    if path.exists() and not path.is_file():
        raise BundleInvalidError("is not a regular file", file=path, remedy=_AGAIN)
    return read_regular(path, MAX_MANIFEST_BYTES)


def parse_manifest(data: bytes, file: str = m.MANIFEST_FILE) -> m.Manifest:
    """The manifest in these bytes; errors as :func:`read_manifest`."""
    return _Reader(JsonField(parse_strict_json(data, file), "", file)).read()


class _Reader:
    def __init__(self, root: JsonField) -> None:
        self._root = root
        self._paths: set[str] = set()
        self._precisions: list[tuple[str, int | None]] | None = None

    def read(self) -> m.Manifest:
        root = self._root
        root.expect_object()
        # Format and version first: a newer version may have other members.
        if not root.has("format") or not root.has("version"):
            root.fail("has no 'format' or 'version': it is not a bundle manifest")
        root["format"].one_of([m.FORMAT])
        version = root["version"].integer(0, MAX_INTEGER)
        if version != m.VERSION:
            root["version"].fail(f"is {version}, this build knows {m.VERSION}", UnsupportedError)
        root.expect_members(_MEMBERS)
        root["provenance"].expect_object()
        model = self._model(root["model"])
        attention = self._attention(root["attention"])
        moe = self._moe(root["moe"])
        quantization = self._quantization(root["quantization"])
        embedding = self._embedding(root["embedding"], model, quantization)
        layers = self._layers(root["layers"], model, attention, moe, quantization)
        if root["moe"]["router"].has("bias"):
            rows = sum(layer.experts is not None for layer in layers)
            if len(moe.router.bias) != rows:
                root["moe"]["router"]["bias"].fail(
                    "does not have an entry for each layer with experts"
                )
        head = self._dense_program(root["head"])
        files = tuple(self._file(field, 0) for field in root["files"].items())
        return m.Manifest(
            model=model,
            attention=attention,
            moe=moe,
            quantization=quantization,
            delegate=self._delegate(root["delegate"]),
            max_batch=root["max_batch"].integer(1, 4096),
            embedding=embedding,
            layers=layers,
            head=head,
            files=files,
            memory=self._memory(root["memory"], layers, head, embedding, moe),
            provenance=dict(root["provenance"].value),
        )

    def _model(self, f: JsonField) -> m.Model:
        f.expect_members(
            ("name", "family", "vocab_size", "hidden_size", "num_layers", "context_length",
             "bos_token_id", "eos_token_ids", "num_parameters", "dense_intermediate_size")
        )  # fmt: skip
        vocab = f["vocab_size"].integer(1, _TOKENS)
        bos = f["bos_token_id"]
        stops = f["eos_token_ids"].items()
        if len(stops) > 16:
            f["eos_token_ids"].fail("has more than 16 entries")
        ids: list[int] = []
        for stop in stops:
            value = stop.integer(0, vocab - 1)
            if ids and value <= ids[-1]:
                stop.fail("is not above the one before it")
            ids.append(value)
        return m.Model(
            name=f["name"].text(m.MAX_NAME_BYTES),
            family=f["family"].text(64),
            vocab_size=vocab,
            hidden_size=f["hidden_size"].integer(1, 2**20),
            num_layers=f["num_layers"].integer(1, 4096),
            context_length=f["context_length"].integer(1, _TOKENS),
            bos_token_id=None if bos.value is None else bos.integer(0, vocab - 1),
            eos_token_ids=tuple(ids),
            num_parameters=f["num_parameters"].integer(0, MAX_INTEGER),
            dense_intermediate_size=f["dense_intermediate_size"].integer(0, _TOKENS),
        )

    def _attention(self, f: JsonField) -> m.Attention:
        f.expect_members(("num_heads", "num_kv_heads", "head_dim", "scale", "rope", "kv_dtype"))
        kv_dtype = f["kv_dtype"].one_of(("float16", "float32"))
        return m.Attention(**_heads(f, None), kv_dtype=kv_dtype)

    def _moe(self, f: JsonField) -> m.Moe:
        f.expect_members(("num_experts", "top_k", "intermediate_size", "router"))
        experts = f["num_experts"].integer(1, 65536)
        top_k = f["top_k"].integer(1, experts)
        return m.Moe(
            num_experts=experts,
            top_k=top_k,
            intermediate_size=f["intermediate_size"].integer(1, _TOKENS),
            router=parse_router(f["router"], experts, top_k),
        )

    def _quantization(self, f: JsonField) -> m.Quantization:
        f.expect_members(("experts", "dense", "head", "embedding", "group_size"))
        experts, dense, head = (
            f[name].one_of(QUANTS, UnsupportedError) for name in ("experts", "dense", "head")
        )
        group = f["group_size"].integer(0, 256)
        if Quant.INT4 in (experts, dense, head):
            _check_group_size(f["group_size"])
        elif group:
            f["group_size"].fail("is not 0, though nothing is 8da4w")
        embedding = f["embedding"].one_of(EMBEDDINGS, UnsupportedError)
        return m.Quantization(experts, dense, head, embedding, group)

    def _delegate(self, f: JsonField) -> m.Delegate:
        f.expect_members(("name", "executorch"))
        return m.Delegate(_delegate_name(f["name"]), f["executorch"].text(64))

    def _embedding(self, f: JsonField, model: m.Model, quantization: m.Quantization) -> m.Embedding:
        f.expect_members((*_FILE_MEMBERS, "dtype", "row_bytes"))
        file = self._file_members(f, 1)
        dtype = f["dtype"].one_of(EMBEDDINGS)
        if dtype != quantization.embedding:
            f["dtype"].fail("differs from quantization.embedding")
        expected = embedding_row_bytes(dtype, model.hidden_size)
        row_bytes = f["row_bytes"].integer(1, MAX_INTEGER)
        if row_bytes != expected:
            f["row_bytes"].fail(f"is not {expected}")
        if file.bytes != model.vocab_size * row_bytes:
            f["bytes"].fail("is not model.vocab_size x row_bytes")
        return m.Embedding(**vars(file), dtype=dtype, row_bytes=row_bytes)

    def _layers(
        self,
        f: JsonField,
        model: m.Model,
        attention: m.Attention,
        moe: m.Moe,
        quantization: m.Quantization,
    ) -> tuple[m.Layer, ...]:
        fields = f.items()
        if len(fields) != model.num_layers:
            f.fail("does not have model.num_layers entries")
        return tuple(self._layer(field, attention, moe, quantization) for field in fields)

    def _layer(
        self, f: JsonField, attention: m.Attention, moe: m.Moe, quantization: m.Quantization
    ) -> m.Layer:
        f.expect_members(("mixer", "dense"), ("experts",))
        return m.Layer(
            mixer=_mixer(f["mixer"], attention),
            dense=self._dense_program(f["dense"]),
            experts=self._experts(f["experts"], moe, quantization) if f.has("experts") else None,
        )

    def _experts(self, f: JsonField, moe: m.Moe, quantization: m.Quantization) -> m.Experts:
        f.expect_members((*_FILE_MEMBERS, "programs"), ("delegate", "variants"))
        shard = self._shard(f, moe)
        variants: list[m.Variant] = []
        if f.has("variants"):
            fields = f["variants"].items()
            if not fields:
                f["variants"].fail("is empty")
            if len(fields) > m.MOST_VARIANTS:
                f["variants"].fail(
                    "has several entries, and engines run experts in at most two precisions",
                    UnsupportedError,
                )
            variants = [self._variant(fields[0], moe)]
            if variants[0].quantization == quantization.experts:
                fields[0]["quantization"].fail("names a precision of these experts twice")
        precisions = [(variant.quantization, variant.group_size) for variant in variants]
        if self._precisions is None:
            self._precisions = precisions
        if self._precisions != precisions:
            f.fail("has other variants than the layers before it")
        return m.Experts(**vars(shard), variants=tuple(variants))

    def _variant(self, f: JsonField, moe: m.Moe) -> m.Variant:
        f.expect_members(("quantization", *_FILE_MEMBERS, "programs"), ("delegate", "group_size"))
        quantization = f["quantization"].one_of(QUANTS, UnsupportedError)
        if (quantization == Quant.INT4) != f.has("group_size"):
            f.fail("needs a group_size if and only if its quantization is 8da4w")
        group = None
        if f.has("group_size"):
            group = f["group_size"].integer(0, 256)
            _check_group_size(f["group_size"])
        shard = self._shard(f, moe)
        return m.Variant(**vars(shard), quantization=quantization, group_size=group)

    def _shard(self, f: JsonField, moe: m.Moe) -> m.Shard:
        file = self._file_members(f, 1)
        fields = f["programs"].items()
        if len(fields) != moe.num_experts:
            f["programs"].fail("does not have moe.num_experts entries")
        programs, end = [], 0
        for field in fields:
            field.expect_members(("offset", "bytes", "sha256"))
            offset = field["offset"].integer(0, MAX_INTEGER)
            size = field["bytes"].integer(1, MAX_INTEGER)
            if offset % m.ALIGNMENT:
                field["offset"].fail(f"is not a multiple of {m.ALIGNMENT}")
            if offset < end:
                field["offset"].fail("overlaps or precedes the program before it")
            end = offset + size
            if end > file.bytes:
                field["bytes"].fail("reaches beyond the end of the shard")
            programs.append(m.Program(offset, size, _sha256(field["sha256"])))
        if file.bytes != -(-end // m.ALIGNMENT) * m.ALIGNMENT:
            f["bytes"].fail(f"is not the end of the last program rounded up to {m.ALIGNMENT}")
        return m.Shard(**vars(file), programs=tuple(programs), delegate=_program_delegate(f))

    def _memory(
        self,
        f: JsonField,
        layers: tuple[m.Layer, ...],
        head: m.File,
        embedding: m.Embedding,
        moe: m.Moe,
    ) -> m.Memory:
        facts = m.memory_facts(layers=layers, head=head, embedding=embedding, top_k=moe.top_k)
        names = tuple(m.Memory.__dataclass_fields__)
        f.expect_members(names)
        for name in names:
            stated, expected = f[name].integer(0, MAX_INTEGER), getattr(facts, name)
            if stated != expected:
                f[name].fail(f"is {stated}, the entries give {expected}")
        return facts

    def _dense_program(self, f: JsonField) -> m.DenseProgram:
        f.expect_members(_FILE_MEMBERS, ("delegate",))
        return m.DenseProgram(**vars(self._file_members(f, 1)), delegate=_program_delegate(f))

    def _file(self, f: JsonField, minimum: int) -> m.File:
        f.expect_members(_FILE_MEMBERS)
        return self._file_members(f, minimum)

    def _file_members(self, f: JsonField, minimum: int) -> m.File:
        path = f["path"].text(200)
        _check_path(path, f["path"])
        if path in self._paths:
            f["path"].fail(f"is listed twice: {path!r}")
        self._paths.add(path)
        return m.File(path, f["bytes"].integer(minimum, MAX_INTEGER), _sha256(f["sha256"]))


def _check_group_size(f: JsonField) -> None:
    if f.value not in GROUP_SIZES:
        f.fail("is not 32, 64, 128 or 256")


def _program_delegate(f: JsonField) -> str | None:
    return _delegate_name(f["delegate"]) if f.has("delegate") else None


def _delegate_name(f: JsonField) -> str:
    name = f.text(64)
    if name not in m.DELEGATES:
        f.fail(
            f"is {name!r}, a delegate this build does not support "
            f"(it supports {', '.join(m.DELEGATES)})",
            UnsupportedError,
        )
    return name


def _heads(f: JsonField, common: m.Attention | None) -> dict[str, Any]:
    """The members of attention that ``f`` states, checked together with the ``common`` ones."""
    stated: dict[str, Any] = {
        name: f[name].integer(1, 4096)
        for name in ("num_heads", "num_kv_heads", "head_dim")
        if f.has(name)
    }

    def whole(name: str) -> Any:
        return stated[name] if name in stated else getattr(common, name)

    if whole("num_heads") % whole("num_kv_heads"):
        if "num_heads" in stated:
            f["num_heads"].fail("is not a multiple of num_kv_heads")
        f["num_kv_heads"].fail("is not a divisor of num_heads")
    if f.has("scale"):
        stated["scale"] = f["scale"].number()
        if stated["scale"] <= 0:
            f["scale"].fail("is not positive")
    if f.has("rope"):
        rope = f["rope"]
        rope.expect_members(("inverse_frequencies", "amplitude"))
        frequencies = tuple(item.number() for item in rope["inverse_frequencies"].items())
        stated["rope"] = m.Rope(frequencies, rope["amplitude"].number())
    if 2 * len(whole("rope").inverse_frequencies) > whole("head_dim"):
        if "rope" in stated:
            f["rope"]["inverse_frequencies"].fail("rotates more elements than head_dim")
        f["head_dim"].fail("is less than the elements that are rotated")
    return stated


def _mixer(f: JsonField, attention: m.Attention) -> m.Mixer:
    f.expect_object()
    if not f.has("kind"):
        f.fail("does not have the member 'kind'")
    if f["kind"].one_of(("attention", "convolution"), UnsupportedError) == "convolution":
        f.expect_members(("kind", "kernel", "width"))
        return m.ConvolutionMixer(f["kernel"].integer(2, 16), f["width"].integer(1, 2**20))
    f.expect_members(("kind", "window"), ("num_heads", "num_kv_heads", "head_dim", "scale", "rope"))
    window = f["window"].integer(0, 2**32 - 1)
    return m.AttentionMixer(window, **_heads(f, attention))


def _check_path(path: str, f: JsonField) -> None:
    components = path.split("/")
    for component in components:
        if not component:
            f.fail(f"has an empty component: {path!r}")
        if component in (".", ".."):
            f.fail(f"has the component {component!r}: {path!r}")
        if not _COMPONENT.fullmatch(component):
            f.fail(f"has a character outside [A-Za-z0-9._-]: {path!r}")
    if components[0] == ".packed":
        f.fail("lies in .packed, which is not part of a bundle")
    if path == m.MANIFEST_FILE:
        f.fail(f"lists {m.MANIFEST_FILE} itself")


def _sha256(f: JsonField) -> str:
    value = f.text(64)
    if not _SHA256.fullmatch(value):
        f.fail("is not 64 lower-case hexadecimal digits")
    return value
