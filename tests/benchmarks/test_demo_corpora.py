# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Cutting sources into documents, and the split into training and held-out text."""

from __future__ import annotations

import zlib

import pytest

from benchmarks.demo_training import corpora


def test_split_depends_on_the_text_alone() -> None:
    documents = [f"document {i} " * 20 for i in range(400)]
    train, held = corpora.split("x", documents, 10**9)
    assert sorted(train + held) == sorted(documents)
    assert 5 < len(held) < 40
    again = corpora.split("x", documents[::-1] + documents[:50], 10**9)
    assert again == (train, held)
    fewer, same_held = corpora.split("x", documents, 2000)
    assert same_held == held
    assert fewer == train[: len(fewer)]
    size = sum(len(document) for document in fewer)
    assert size >= 2000 > size - len(fewer[-1])


def test_r_strings_are_read_from_a_lazy_load_database() -> None:
    def string(text: bytes) -> bytes:
        return b"\x00\x04\x00\x09" + len(text).to_bytes(4, "big") + text

    vector = b"\x00\x00\x00\x10" + (2).to_bytes(4, "big") + string(b"It is a") + string(b"truth")
    data = len(vector).to_bytes(4, "big") + zlib.compress(vector)
    records = corpora._rdb_records(data * 2 + b"\x00" * 8)
    assert records == [vector, vector]
    assert corpora._r_strings(records[0]) == ["It is a", "truth"]
    with pytest.raises(ValueError, match="header says"):
        corpora._rdb_records((7).to_bytes(4, "big") + zlib.compress(vector))
