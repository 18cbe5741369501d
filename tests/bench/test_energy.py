# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Energy of batteries whose true energy is known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.bench.energy import Energy, in_microamperes, measure_energy

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


@pytest.mark.parametrize("glitch", [65535, -32768, 0, 1, 10**14])
@pytest.mark.parametrize("gauge", [450, 450_000])
def test_a_single_glitch_decides_nothing(gauge: int, glitch: int) -> None:
    # 0.45 A at 3.9 V for a minute: 105.3 J.
    samples = _samples(
        61, battery_ua=lambda t: glitch if t == 30 else -gauge, battery_mv=lambda t: 3900
    )
    energy = measure_energy(samples, MINUTE, charging=False)
    assert energy.joules == pytest.approx(105.3, rel=0.02)
    assert (energy.source, energy.note) == ("current", None)
    told = [reading["battery_ua"] for reading in in_microamperes(samples, samples, charging=False)]
    assert told[30] is None or abs(told[30]) < 1_000_000
    assert {*told[:30], *told[31:]} == {-450_000}


def test_a_gauge_of_many_glitches_has_no_unit() -> None:
    samples = _samples(
        61, battery_ua=lambda t: 65535 if t % 5 == 0 else -450, battery_mv=lambda t: 3900
    )
    assert measure_energy(samples, MINUTE, charging=False).joules is None
    told = in_microamperes(samples, samples, charging=False)
    assert {reading["battery_ua"] for reading in told} == {None}


@pytest.mark.parametrize(
    ("gauge", "charging", "told"),
    [
        (450_000, False, [-450_000, -9_000, None]),
        (450, False, [-450_000, None, None]),  # 9 A
        (12_000, False, 3 * [None]),
        # On a charger 3000 may be 3 mA, of a full battery; 450 A are none.
        (450_000, True, [-450_000, -9_000, None]),
        (450_000, None, [-450_000, -9_000, None]),
        (3_000, True, 3 * [None]),
        (3_000, None, 3 * [None]),
    ],
)
def test_currents_are_in_microamperes_or_unknown(
    gauge: int, charging: bool | None, told: list[int | None]
) -> None:
    """An idle reading is in the unit of those of the repetition."""
    samples = _samples(61, battery_ua=lambda t: -gauge + t % 2)
    readings = [{"battery_ua": current, "battery_mv": 1} for current in (-gauge, -9_000, None)]
    found = in_microamperes(samples, readings, charging=charging)
    assert found == [{"battery_ua": current, "battery_mv": 1} for current in told]
    unknown = in_microamperes([], readings[:1], charging=charging)
    assert unknown == [{"battery_ua": None, "battery_mv": 1}]


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
    # On a charger 500 may be microamperes.
    small = [sample | {"battery_ua": 500} for sample in steady]
    unsure = measure_energy(small, MINUTE, charging=None)
    assert (unsure.joules, unsure.note) == (None, "unknown whether it was charging")
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


@pytest.mark.parametrize(
    ("counter", "amperes"),
    [
        (lambda t: 15_000_000 - 120_000 * t, "432 A"),  # microampere hours taken for milliampere
        (lambda t: 9_000_000 - 100_000 * t, "360 A"),
        (lambda t: 3_000_000 - t, "0.0036 A"),
        (lambda t: 3_000_000 - 120 * t - (2_900_000 if t == 60 else 0), "177 A"),
    ],
)
def test_a_counter_that_no_battery_has_says_nothing(counter: Any, amperes: str) -> None:
    note = f"the charge counter moved as if {amperes} flowed"
    alone = _samples(61, battery_uah=counter, battery_mv=lambda t: 3900)
    assert measure_energy(alone, MINUTE, charging=False) == Energy(None, None, note)
    both = [sample | {"battery_ua": -450_000} for sample in alone]
    energy = measure_energy(both, MINUTE, charging=False)
    assert energy.joules == pytest.approx(105.3)
    assert (energy.source, energy.note) == ("current", note)


def test_a_current_that_no_battery_gives_says_nothing() -> None:
    samples = _samples(61, battery_ua=lambda t: -12_000_000, battery_mv=lambda t: 3900)
    energy = measure_energy(samples, MINUTE, charging=False)
    assert energy == Energy(None, None, "the current was 12 A, which no battery gives for long")


def test_two_measurements_that_disagree_are_none() -> None:
    # 120 uAh a second are 0.432 A.
    counted = _samples(61, battery_uah=lambda t: 3_000_000 - 120 * t, battery_mv=lambda t: 3900)

    def beside(microamperes: int) -> Energy:
        samples = [sample | {"battery_ua": microamperes} for sample in counted]
        return measure_energy(samples, MINUTE, charging=False)

    # One of two cells, or one that is not read while it computes.
    for half in (-216_000, -864_000):
        assert (beside(half).joules, beside(half).source) == (None, None)
    assert beside(-216_000).note == "the charge counter says 101 J and the current 50.5 J"
    assert beside(-330_000) == beside(-600_000) == measure_energy(counted, MINUTE, charging=False)


def test_a_glitch_of_the_counter_is_no_step() -> None:
    """It moved three times by itself: too little."""
    samples = _samples(
        61,
        battery_uah=lambda t: 65_535 if t == 30 else 3_000_000 - 1000 * (t // 16),
        battery_mv=lambda t: 3900,
    )
    energy = measure_energy(samples, MINUTE, charging=False)
    assert energy.note == "the charge counter moved too little"
