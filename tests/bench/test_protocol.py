# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which cores, when a repetition may start, and which rows may be compared."""

from __future__ import annotations

import pathlib
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile import errors
from moe_mobile.bench.affinity import Affinity, choose
from moe_mobile.bench.driver import Protocol
from moe_mobile.bench.gate import Gate, pass_gate
from moe_mobile.bench.regime import agreed_charging, incomparable, regime
from moe_mobile.device.interface import Cluster, DeviceFacts, ShellResult
from moe_mobile.device.local import LocalDevice


def _facts(*clusters: tuple[int, int | None] | tuple[int, int, int]) -> DeviceFacts:
    """Clusters of so many cores at so many MHz, and of that capacity."""
    made, first = [], 0
    for count, mhz, *capacity in clusters:
        cpus = tuple(range(first, first + count))
        made.append(Cluster(cpus, None if mhz is None else mhz * 1000, *capacity))
        first += count
    return DeviceFacts(
        "R58M", "R58M", "adb", "", "", "arm64-v8a", "15", 0, 0, 0, 4096, tuple(made), 0, False, None
    )


@pytest.mark.parametrize(
    ("clusters", "policy", "cpus"),
    [
        # Clocks as makers publish them: 4+3+1, 4+2+2, 3+5+1 and all big.
        ([(4, 1800), (3, 2420), (1, 2840)], "big", [4, 5, 6, 7]),
        ([(4, 1800), (2, 2350), (2, 2850)], "big", [4, 5, 6, 7]),
        ([(3, 2000), (5, 2800), (1, 3200)], "big", [3, 4, 5, 6, 7, 8]),
        # Middle cores far below the fastest: Kirin 980 and 990 4G, Exynos 2500.
        ([(4, 1800), (2, 1920), (2, 2600)], "big", [4, 5, 6, 7]),
        ([(4, 1860), (2, 2090), (2, 2860)], "big", [4, 5, 6, 7]),
        ([(2, 1800), (5, 2360), (2, 2740), (1, 3300)], "big", [2, 3, 4, 5, 6, 7, 8, 9]),
        # The next to weakest have less than half of the clock too: XRING O1.
        ([(2, 1800), (2, 1890), (4, 3400), (2, 3900)], "big", [4, 5, 6, 7, 8, 9]),
        # Mid-range chips: little cores at 82 and 91 % of the big ones' clock.
        ([(4, 1800), (4, 2200)], "big", [4, 5, 6, 7]),
        ([(6, 2000), (2, 2200)], "big", [6, 7]),
        # Capacities tell what clocks do not: the same clock, or more of it on a weaker core.
        ([(4, 1989, 741), (4, 1989, 1024)], "big", [4, 5, 6, 7]),
        ([(4, 2000, 350), (4, 1900, 1024)], "big", [4, 5, 6, 7]),
        ([(4, 2600, 400), (2, 3000, 1024)], "big", [4, 5]),
        ([(6, 3530, 700), (2, 4320, 1024)], "all", list(range(8))),
        ([(8, 2000, 1024)], "all", list(range(8))),
        # The kernel's default says nothing, so clocks decide.
        ([(4, 1800, 1024), (4, 2800, 1024)], "big", [4, 5, 6, 7]),
        ([(6, 2000, 1024), (2, 2200, 1024)], "big", [6, 7]),
        # Only big cores: Snapdragon 8 Elite and its Gen 5.
        ([(6, 3530), (2, 4320)], "all", list(range(8))),
        ([(6, 3630), (2, 4610)], "all", list(range(8))),
        ([(8, 2400)], "all", list(range(8))),
        ([(8, None)], "all", list(range(8))),
        ([(4, None), (4, 2400)], "all", list(range(8))),
        ([], "all", []),
    ],
)
def test_big_cores(clusters: list[Any], policy: str, cpus: list[int]) -> None:
    chosen = choose("big", _facts(*clusters))
    assert chosen == Affinity(policy, tuple(cpus))
    # What is left to the system is not pinned.
    assert chosen.pinned == (None if policy == "all" else tuple(cpus))


def test_cores_by_name() -> None:
    facts = _facts((4, 1800), (4, 2800))
    assert choose("all", facts) == Affinity("all", tuple(range(8)))
    assert choose("7,0-2", facts) == Affinity("list", (0, 1, 2, 7))
    assert choose("4-7", facts).as_dict() == {"policy": "list", "cpus": [4, 5, 6, 7]}
    with pytest.raises(errors.UsageError, match="R58M has no core 8: its cores are 0, 1"):
        choose("6-8", facts)
    for wrong in ("", "fast", "3-1", "1,,2", "1;reboot", "-1"):
        with pytest.raises(errors.UsageError, match="neither big nor all"):
            choose(wrong, facts)


class _Warm(LocalDevice):
    """This machine, with a script in place of Android's services."""

    def __init__(self, dumpsys: pathlib.Path) -> None:
        self._dumpsys = dumpsys

    def shell(self, script: str, *, timeout: float | None = None) -> ShellResult:
        return super().shell(f"dumpsys() {{ . {self._dumpsys}; }}\n{script}", timeout=timeout)


@pytest.fixture
def dumpsys(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "dumpsys"


def _cooling(path: pathlib.Path, *readings: tuple[int, float, float, float]) -> None:
    """Each reading of the services is the next (status, CPU, skin, battery), the last stays."""
    folder = path.parent
    for number, (status, cpu, skin, battery) in enumerate(readings):
        (folder / f"thermal{number}").write_text(
            f"Thermal Status: {status}\nCurrent temperatures from HAL:\n"
            f"\tTemperature{{mValue={cpu}, mType=0, mName=CPU0, mStatus=0}}\n"
            f"\tTemperature{{mValue={skin}, mType=3, mName=skin, mStatus={status}}}\n"
        )
        (folder / f"battery{number}").write_text(f"  temperature: {round(10 * battery)}\n")
    (folder / "turn").write_text("0")
    path.write_text(
        f'n=$(cat {folder}/turn)\n[ "$1" = battery ] && cat {folder}/battery$n && return\n'
        f'cat {folder}/thermal$n\n[ "$n" = {len(readings) - 1} ] || echo $((n + 1)) >{folder}/turn'
    )


def test_the_gate_waits_for_each_sensor_and_the_status(dumpsys: pathlib.Path) -> None:
    _cooling(
        dumpsys, (2, 70, 44, 37), (0, 65, 39.9, 40.5), (0, 50.1, 35, 36), (1, 45, 35, 36),
        (0, 50, 40, 40),
    )  # fmt: skip
    told: list[str] = []
    gate = Gate(limit_c=40, timeout_s=600, poll_s=0.01)
    wait = pass_gate(_Warm(dumpsys), gate, lambda what, waited, most: told.append(what))
    assert told == [
        "skin 44.0 °C, limit 40 °C",
        "battery 40.5 °C, limit 40 °C",
        "CPU 50.1 °C, limit 50 °C",
        "thermal status 1, limit 0",
    ]
    assert wait.outcome == "passed"
    assert 0.04 <= wait.waited_s < 600
    assert (wait.state.cpu_c, wait.state.skin_c, wait.state.battery_c) == (50, 40, 40)


def test_the_gate_gives_up_after_its_time(dumpsys: pathlib.Path) -> None:
    _cooling(dumpsys, (0, 60, 45, 38))
    wait = pass_gate(_Warm(dumpsys), Gate(40, 0.05, poll_s=0.02), lambda *_: None)
    assert wait.outcome == "timed_out"
    assert 0.05 <= wait.waited_s < 5
    assert wait.state.skin_c == 45
    assert pass_gate(_Warm(dumpsys), Gate(40, 0), lambda *_: None).outcome == "timed_out"
    # Without a gate nothing is waited for, and the state is read all the same.
    wait = pass_gate(_Warm(dumpsys), None, lambda *_: None)
    assert (wait.outcome, wait.waited_s, wait.state.skin_c) == ("off", 0.0, 45)


def test_waiting_can_be_stopped(dumpsys: pathlib.Path) -> None:
    _cooling(dumpsys, (0, 60, 45, 38))
    stop = threading.Event()
    with pytest.raises(errors.CancelledError):
        pass_gate(_Warm(dumpsys), Gate(40, 600, 600), lambda *_: stop.set(), stop)


def _row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "n_prompt": 0, "n_gen": 128, "n_depth": 0, "bundle_hash": "ab" * 32,
        "model_type": "olmoe 8da4w", "direct_io": True, "config": {"cache": "50%"},
        "regime": regime(Protocol(gate=Gate(40.0, 300.0))) | {"charging": False},
        "affinity": {"policy": "big", "cpus": [4, 5]},
        "device": {"virtual": False, "limit": None, "serial": "R58M"},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = row
        for parent in parents:
            place = place[parent]
        place[name] = value
    return row


def test_rows_that_differ_in_settings_are_comparable() -> None:
    other = _row(config={"cache": "25%"}, device__serial="R59N", affinity__cpus=[6, 7])
    assert incomparable(_row(), other) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_gen": 64}, "decoded tokens: 128 and 64"),
        ({"bundle_hash": "cd" * 32}, "bundle: abababababab and cdcdcdcdcdcd"),
        ({"direct_io": False}, "reading with O_DIRECT: yes and no"),
        ({"regime__order": "interleaved"}, "order of repetitions: sequential and interleaved"),
        ({"regime__warmup": 0}, "runs of warm-up: 1 and 0"),
        ({"regime__gate__limit_c": 35.0}, "thermal gate (°C): 40 and 35"),
        ({"regime__gate__timeout_s": 2e6}, "time-out of the gate (s): 300 and 2,000,000"),
        ({"regime__charging": None}, "charging: no and unknown"),
        ({"affinity__policy": "all"}, "choice of cores: big and all"),
        ({"device__virtual": True}, "virtual phone: no and yes"),
    ],
)
def test_rows_of_different_regimes_are_not(changes: dict[str, Any], reason: str) -> None:
    assert incomparable(_row(), _row(**changes)) == [reason]
    assert len(incomparable(_row(**changes), _row())) == 1


def test_gated_and_ungated_rows_differ_unless_not_recorded() -> None:
    assert incomparable(_row(), _row(regime__gate=None)) == [
        "thermal gate (°C): 40 and off", "time-out of the gate (s): 300 and off",
    ]  # fmt: skip
    old = {k: v for k, v in _row().items() if k not in ("regime", "device", "affinity")}
    assert incomparable(old, old) == []
    assert "order of repetitions: not recorded and sequential" in incomparable(old, _row())


@given(st.lists(st.sampled_from([True, False, None]), min_size=1))
def test_charging_is_known_if_all_agree(found: list[bool | None]) -> None:
    states = [{"charging": value} for value in found]
    expected = found[0] if set(found) in ({True}, {False}) else None
    assert agreed_charging(states) is expected
