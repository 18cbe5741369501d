# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The few statistics a benchmark quotes, each defined in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["mean", "percentile", "sample_stddev"]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean. Raises ValueError for no values."""
    if not values:
        raise ValueError("mean of no values")
    return math.fsum(values) / len(values)


def sample_stddev(values: Sequence[float]) -> float:
    """Standard deviation of a sample (divisor n - 1); 0.0 for one value, as llama-bench has it."""
    if not values:
        raise ValueError("standard deviation of no values")
    if len(values) == 1:
        return 0.0
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile: the smallest value with at least `percent` % of all at or below it.

    It is always one of the measured values. Raises ValueError for no values or a percentage
    outside (0, 100].
    """
    if not values:
        raise ValueError("percentile of no values")
    if not 0 < percent <= 100:
        raise ValueError(f"percentage {percent} is not in (0, 100]")
    # Multiplying first keeps exact cases exact: 0.07 * 100 would be 7.000000000000001.
    rank = math.ceil(percent * len(values) / 100)
    return sorted(values)[rank - 1]
