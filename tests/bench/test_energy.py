# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Energy of batteries whose true energy is known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.bench.energy import in_microamperes, measure_energy

MINUTE = 60_000.0


def _samples(seconds: int, **columns: Any) -> list[dict[str, Any]]:
    """A sample a second; a column is a function of the second."""
    return [{"t_ms": 1000.0 * t, **{k: f(t) for k, f in columns.items()}} for t in range(seconds)]


def test_a_constant_current_by_hand() -> None:
    # 0.5 A at 4 V for a minute: 120 J.
    samples = _samples(61, battery_ua=lambda t: -500_000, battery_mv=lambda t: 4000)
    energy = measure_energy(samples, MINUTE, charging=False)
    assert energy.joules == pytest.approx(120)
    assert (energy.source, energy.note) == ("current", None)


def test_a_gauge_that_counts_milliamperes() -> None:
    samples = _samples(61, battery_ua=lambda t: -500 + t % 2, battery_mv=lambda t: 4000)
    energy = measure_energy(samples, MINUTE, charging=False)
    assert energy.joules == pytest.approx(120, rel=0.01)
    assert (energy.source, energy.note) == ("current", None)


@pytest.mark.parametrize(
    ("gauge", "told"),
    [
        (450_000, [-450_000, -9_000, None]),
        (450, [-450_000, -9_000_000, None]),
        (12_000, 3 * [None]),
    ],
)
def test_currents_are_in_microamperes_or_unknown(gauge: int, told: list[int | None]) -> None:
    """An idle reading is in the unit of those of the repetition."""
    samples = _samples(61, battery_ua=lambda t: -gauge + t % 2)
    readings = [{"battery_ua": current, "battery_mv": 1} for current in (-gauge, -9_000, None)]
    found = in_microamperes(samples, readings)
    assert found == [{"battery_ua": current, "battery_mv": 1} for current in told]
    assert in_microamperes([], readings[:1]) == [{"battery_ua": None, "battery_mv": 1}]


def test_the_charge_counter_by_hand() -> None:
    # 3600 uAh in 36 s are 0.36 A; at 4 V 51.84 J in that time, 86.4 J in a minute.
    samples = _samples(
        61, battery_uah=lambda t: 3_000_000 - 1000 * (t // 10), battery_mv=lambda t: 4000
    )
    energy = measure_energy(samples, MINUTE, charging=False)
    assert energy.joules == pytest.approx(86.4)
    assert (energy.source, energy.note) == ("charge counter", None)


@given(
    milliamperes=st.integers(100, 4000),
    millivolts=st.integers(3300, 4400),
    step=st.sampled_from([1, 10, 100, 250]),
    phase=st.floats(0, 1),
)
def test_both_sources_find_the_truth(
    milliamperes: int, millivolts: int, step: int, phase: float
) -> None:
    seconds = 300
    truth = milliamperes * millivolts * 1e-6 * seconds
    per_second = milliamperes / 3.6

    def counter(t: int) -> int:
        return 4_000_000 - step * int(per_second * t / step + phase)

    current = _samples(
        seconds + 1, battery_ua=lambda t: milliamperes * 1000, battery_mv=lambda t: millivolts
    )
    charge = _samples(seconds + 1, battery_uah=counter, battery_mv=lambda t: millivolts)
    energy = measure_energy(current, 1000.0 * seconds, charging=False)
    assert energy.joules == pytest.approx(truth)
    energy = measure_energy(charge, 1000.0 * seconds, charging=False)
    assert energy.note is None
    # A step is noticed up to a second late; steps last as long as the current is small.
    assert energy.joules == pytest.approx(truth, rel=0.1)


def test_notes_say_why_energy_is_unknown_or_unsure() -> None:
    steady = _samples(61, battery_ua=lambda t: 500_000, battery_mv=lambda t: 4000)
    assert measure_energy(steady, MINUTE, charging=True).note == "the device was charging"
    assert measure_energy(steady, MINUTE, charging=True).joules is None
    unsure = measure_energy(steady, MINUTE, charging=None)
    assert unsure.joules == pytest.approx(120)
    assert unsure.note == "unknown whether it was charging"
    assert measure_energy(steady, MINUTE, charging=False, virtual=True).note == "virtual phone"
    short = measure_energy(steady[:26], 25_000, charging=False)
    assert short.joules == pytest.approx(50)
    assert short.note == "shorter than 30 s"
    rare = measure_energy(steady[::20], MINUTE, charging=False)
    assert rare.note == "the current was read too rarely"
    assert rare.joules == pytest.approx(120)
    assert measure_energy([], MINUTE, charging=False).note == "no battery counters"
    still = _samples(61, battery_uah=lambda t: 3_000_000, battery_mv=lambda t: 4000)
    energy = measure_energy(still, MINUTE, charging=False)
    assert (energy.joules, energy.note) == (None, "the charge counter did not move")
    one = measure_energy(still[:1], MINUTE, charging=False)
    assert (one.joules, one.note) == (None, "the charge counter was read only once")
    once = _samples(
        61, battery_uah=lambda t: 3_000_000 - 1000 * (t > 30), battery_mv=lambda t: 4000
    )
    energy = measure_energy(once, MINUTE, charging=False)
    assert energy.joules == pytest.approx(14.4)
    assert energy.note == "the charge counter moved too little"
    # Neither 20 mA nor 20 A are what a phone takes while it computes, nor 12.
    for reading in (20_000, 12_000, 8_000):
        odd = [sample | {"battery_ua": reading} for sample in steady]
        energy = measure_energy(odd, MINUTE, charging=False)
        assert (energy.joules, energy.source) == (None, None)
        assert "plausible" in (energy.note or "")
    # A counter that grows is not a discharge.
    rising = _samples(61, battery_uah=lambda t: 3_000_000 + 1000 * t, battery_mv=lambda t: 4000)
    assert measure_energy(rising, MINUTE, charging=False).joules is None


def test_the_current_is_used_if_the_counter_is_coarse() -> None:
    samples = _samples(
        61,
        battery_uah=lambda t: 3_000_000 - 1000 * (t > 30),
        battery_ua=lambda t: -500_000,
        battery_mv=lambda t: 4000,
    )
    energy = measure_energy(samples, MINUTE, charging=False)
    assert energy.joules == pytest.approx(120)
    assert energy.source == "current"
