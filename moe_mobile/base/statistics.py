# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The few statistics that results quote, each defined in one place.

Intervals for the ratio of two speeds from few repetitions are by Student's t distribution. Its
quantile is computed here: to import SciPy for it takes longer than to make a report.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from statistics import fmean

LARGEST = 1e30
"""The largest number that is believed: sums and ratios of such stay finite, and nothing measured is
larger."""

_LEVEL = 0.95
_ROUNDING = 1e-12
"""A standard error below it is one of floating point: logarithms of equal speeds."""


def sample_stddev(values: Sequence[float]) -> float:
    """Standard deviation of a sample (divisor n - 1); 0.0 for one value, as llama-bench has it.

    Raises ValueError if there are no values.
    """
    return 0.0 if len(values) == 1 else statistics.stdev(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile: the smallest value with at least `percent` % of all at or below it.

    It is always one of the measured values. Raises ValueError if there are no values, or for a
    percentage outside (0, 100].
    """
    if not values:
        raise ValueError("percentile of no values")
    if not 0 < percent <= 100:
        raise ValueError(f"percentage {percent} is not in (0, 100]")
    # Multiplying first keeps exact cases exact: 0.07 * 100 would be 7.000000000000001.
    rank = math.ceil(percent * len(values) / 100)
    return sorted(values)[rank - 1]


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Other over base. `low` and `high` bound it at 95 %; if both are None, `note` says why."""

    value: float
    low: float | None
    high: float | None
    method: str
    note: str | None = None

    @property
    def verdict(self) -> str:
        """The conclusion that the interval allows."""
        if self.low is None or self.high is None:
            return "unknown"
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "no difference shown"


def welch_ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """Ratio of geometric means, its interval by Welch's t on logarithms (Welch 1947).

    Logarithms make the interval one of ratios: positive, and the same whichever row is the base.
    Raises ValueError without values.
    """
    logs = [[math.log(value) for value in values] for values in (base, other)]
    difference = fmean(logs[1]) - fmean(logs[0])
    if min(len(base), len(other)) < 2:
        return _single(difference)
    parts = [sample_stddev(values) ** 2 / len(values) for values in logs]
    below = sum(part**2 / (len(values) - 1) for part, values in zip(parts, logs, strict=True))
    freedom = sum(parts) ** 2 / below if below else 1.0
    return _interval("welch", difference, math.sqrt(sum(parts)), freedom)


def paired_ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """The same of interleaved repetitions: t over the logarithms of each pair's ratio.

    A drift that both of a pair share (heat, a slow clock) cancels. If the pairs do not differ
    at all, Welch's interval is the honest one. Raises ValueError if the lengths differ or there
    are no values.
    """
    logs = [math.log(b) - math.log(a) for a, b in zip(base, other, strict=True)]
    if len(logs) < 2:
        return _single(fmean(logs))
    error = sample_stddev(logs) / math.sqrt(len(logs))
    if error < _ROUNDING:
        return welch_ratio(base, other)
    return _interval("paired", fmean(logs), error, len(logs) - 1)


def _single(centre: float) -> Ratio:
    return Ratio(_exp(centre), None, None, "none", "one repetition")


def _interval(method: str, centre: float, error: float, freedom: float) -> Ratio:
    """The ratio whose logarithm is `centre`, with that one's standard error.

    Without any spread there is no interval: a few equal values do not prove that all would be.
    """
    if error < _ROUNDING:
        return Ratio(_exp(centre), None, None, "none", "equal repetitions")
    half = t_quantile((1 + _LEVEL) / 2, freedom) * error
    return Ratio(_exp(centre), _exp(centre - half), _exp(centre + half), method)


def _exp(logarithm: float) -> float:
    """Limited to the range that a chart can show."""
    limit = math.log(LARGEST)
    return math.exp(min(max(logarithm, -limit), limit))


def t_quantile(probability: float, freedom: float) -> float:
    """The value that Student's t with `freedom` degrees stays below with `probability` > 0.5."""
    low, high = 0.0, 1.0
    while _t_cdf(high, freedom) < probability:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        if _t_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_cdf(t: float, freedom: float) -> float:
    """P(T <= t) for t >= 0 (Abramowitz and Stegun 26.7.1, by the incomplete beta function)."""
    return 1 - 0.5 * _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised I_x(a, b) by its continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x in (0, 1):
        return float(x)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)  # where the fraction converges fast
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    # Evaluated from its end: 200 terms are plenty on this side of the maximum.
    value = 1.0
    for m in range(200, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        value = 1 + even / (1 + odd / value)
    value = 1 - (a + b) * x / (a + 1) / value
    return math.exp(log_front) / a / value
