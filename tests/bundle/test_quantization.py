# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The name of a quantization, and the formats that a name or settings stand for."""

from __future__ import annotations

import itertools

import pytest

from moe_mobile.bundle.manifest import Quantization
from moe_mobile.bundle.quantization import (
    DEFAULT_QUANT,
    QUANTS,
    WHOLE_QUANTS,
    QuantizationSettings,
    quantization_name,
)
from moe_mobile.export.options import resolve_options

COMBINATIONS = list(itertools.product(QUANTS, repeat=3))


def parts_of(name: str) -> tuple[str, ...]:
    """The formats of experts, dense programs and head, as a reader understands a name."""
    words = name.split("+")
    return (*words, *[words[-1]] * (3 - len(words)))


@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_a_name_says_what_each_part_is_in_the_fewest_words(parts: tuple[str, str, str]) -> None:
    name = quantization_name(*parts)
    assert parts_of(name) == parts
    shorter = ["+".join(name.split("+")[:length]) for length in range(1, name.count("+") + 1)]
    assert parts not in map(parts_of, shorter)
    assert Quantization(*parts, embedding="int8", group_size=32).name == name


@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_settings_of_each_part_make_a_bundle_of_that_name(parts: tuple[str, str, str]) -> None:
    experts, dense, head = parts
    for quant in {quant for quant in WHOLE_QUANTS if quant.split("+")[0] == experts}:
        found = resolve_options(QuantizationSettings(quant, dense=dense, head=head))
        assert (found.experts, found.dense, found.head) == parts


@pytest.mark.parametrize("quant", WHOLE_QUANTS)
def test_a_bundle_has_the_name_that_was_asked_for(quant: str) -> None:
    for given in (quant, QuantizationSettings(quant)):
        found = resolve_options(given)
        assert quantization_name(found.experts, found.dense, found.head) == quant


def test_the_default_has_experts_in_four_bits_and_the_rest_in_eight() -> None:
    assert DEFAULT_QUANT == "8da4w+8da8w"
    found = resolve_options()
    assert found == resolve_options(QuantizationSettings()) == resolve_options(DEFAULT_QUANT)
    assert (found.experts, found.dense, found.head) == ("8da4w", "8da8w", "8da8w")
    assert (found.embedding, found.kv_dtype, found.group_size) == ("int8", "float16", 32)
    assert found.variants == ()


def test_an_override_changes_one_part() -> None:
    settings = QuantizationSettings(head="fp32", also_quant="8da8w")
    found = resolve_options(settings)
    assert quantization_name(found.experts, found.dense, found.head) == "8da4w+8da8w+fp32"
    assert found.variants == ("8da8w",)
