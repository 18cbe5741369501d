# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Statistics against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.base.statistics import percentile, sample_stddev, t_quantile


def test_sample_stddev_divides_by_one_less() -> None:
    # Squared distances from 5: 9+1+1+1+0+0+4+16 = 32, over 7.
    assert sample_stddev([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(math.sqrt(32 / 7))
    assert sample_stddev([1, 3]) == pytest.approx(math.sqrt(2))
    assert sample_stddev([42]) == 0.0


def test_sample_stddev_survives_large_offsets() -> None:
    assert sample_stddev([1e12 + 1, 1e12 + 3]) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("percent", "expected"), [(5, 15), (30, 20), (40, 20), (50, 35), (100, 50), (0.01, 15)]
)
def test_percentile_is_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([50, 15, 40, 20, 35], percent) == expected


def test_percentile_ranks_are_exact() -> None:
    values = list(range(1, 101))
    assert [percentile(values, p) for p in (7, 29, 50, 57, 58, 95, 99)] == [
        7, 29, 50, 57, 58, 95, 99,
    ]  # fmt: skip
    assert percentile(list(range(1, 21)), 95) == 19


def test_percentiles_of_one_value() -> None:
    assert percentile([3], 1) == percentile([3], 99) == 3


@given(st.lists(st.integers(0, 10**12), min_size=1), st.integers(1, 100))
def test_percentile_by_its_definition(values: list[int], percent: int) -> None:
    result = percentile(values, percent)
    assert result in values
    assert sum(v <= result for v in values) * 100 >= percent * len(values)
    smaller = [v for v in values if v < result]
    assert len(smaller) * 100 < percent * len(values)


def test_no_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="two data points"):
        sample_stddev([])
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@pytest.mark.parametrize("freedom", [1, 1.3, 2, 2.7, 4, 10, 17.3, 100, 999.5])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.999])
def test_students_t_is_scipys(probability: float, freedom: float) -> None:
    """SciPy comes with what the tests need; moe-mobile itself does without."""
    special = pytest.importorskip("scipy.special")
    expected = float(special.stdtrit(freedom, probability))
    assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_percentages_out_of_range_are_an_error(percent: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        percentile([1], percent)
