# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A connection to a phone that is as slow as it was asked for."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from moe_mobile.cli.virtual_phone import command
from moe_mobile.errors import UsageError
from moe_mobile.virtual_phone import PhoneSettings, VirtualPhone
from moe_mobile.virtual_phone.link import Link
from tests.phones import HOME, StartPhone, adb, assert_takes
from tests.virtual_phone.raw import RawClient

MBPS = 20
SIZE = 8_000_000
SECONDS = SIZE / (MBPS * 10**6)


class Clock:
    """A clock that only sleeping moves, by more than was asked for."""

    def __init__(self, overshoot: float = 0.0) -> None:
        self.time = 1000.0
        self.sleeps: list[float] = []
        self._overshoot = overshoot

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds + self._overshoot


def carry(link: Link, direction: int, size: int, largest: int) -> None:
    while size:
        count = min(link.piece, size, largest)
        link.carry(direction, count)
        size -= count


@pytest.mark.parametrize("largest", [24, 65536, 1 << 20])
@pytest.mark.parametrize("overshoot", [0.0, 0.001, 0.005])
def test_the_link_carries_the_set_rate(largest: int, overshoot: float) -> None:
    clock = Clock(overshoot)
    link = Link(10**8, now=clock.now, sleep=clock.sleep)
    carry(link, 0, 10**7, largest)
    # A burst of 10 ms, and the last piece is on its way.
    took = clock.time - 1000
    assert 0.1 - 0.021 <= took <= 0.1 + 0.006
    # It sleeps a few times, each for a while: not for every piece, and never for nothing.
    assert len(clock.sleeps) <= 50
    assert min(clock.sleeps) > 0.001
    # The other direction was idle, and has no more for it than a moment's worth.
    before = clock.time
    carry(link, 1, 10**7, largest)
    assert 0.1 - 0.021 <= clock.time - before <= 0.1 + 0.006


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_the_rate_holds_for_any_number_of_threads(threads: int) -> None:
    rate = MBPS * 10**6
    link = Link(rate)
    lock = threading.Lock()
    passed, most_ahead = 0, 0.0
    began = time.monotonic()

    def ask() -> None:
        nonlocal passed, most_ahead
        for _ in range(80 // threads):
            link.carry(0, link.piece)
            with lock:
                passed += link.piece
                most_ahead = max(most_ahead, passed / rate - (time.monotonic() - began))

    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert most_ahead < 0.0125
    assert time.monotonic() - began > 0.78


def test_small_amounts_are_not_delayed() -> None:
    clock = Clock()
    link = Link(10**6, now=clock.now, sleep=clock.sleep)
    for _ in range(100):
        carry(link, 0, 100, 100)
        clock.time += 0.01
    assert not clock.sleeps


@pytest.fixture
def slow(phone: StartPhone) -> VirtualPhone:
    return phone(link_mbps=MBPS)


def test_every_service_has_the_same_link(slow: VirtualPhone, tmp_path: Path) -> None:
    data = os.urandom(SIZE)
    (tmp_path / "file").write_bytes(data)
    at = ("-s", slow.serial)

    def write() -> None:
        with (tmp_path / "file").open("rb") as file:
            adb(*at, "shell", "-T", f"cat > {HOME}/written", stdin=file)

    def read() -> None:
        got: Any = adb(*at, "exec-out", f"cat {HOME}/pushed", text=False).stdout
        assert got == data

    def both() -> None:
        writing = threading.Thread(target=write)
        writing.start()
        read()
        writing.join()

    def push() -> None:
        assert adb(*at, "push", tmp_path / "file", f"{HOME}/pushed").returncode == 0

    def pull() -> None:
        assert adb(*at, "pull", f"{HOME}/pushed", tmp_path / "back").returncode == 0

    for action in (push, pull, write, read):
        assert_takes(action, 0.95 * SECONDS, SECONDS + 1.5)
    assert (tmp_path / "back").read_bytes() == data
    assert_takes(both, 0.95 * SECONDS, 1.9 * SECONDS)  # each way has a rate of its own
    processor = _processor_seconds(slow)
    push()
    assert _processor_seconds(slow) - processor < SECONDS / 2  # it sleeps while it waits


@pytest.mark.parametrize("count", [2, 15])
def test_connections_share_the_link(slow: VirtualPhone, count: int) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(slow)) for _ in range(count)]

        def read(client: RawClient) -> None:
            stream = client.open(f"exec:head -c {SIZE // count} /dev/zero".encode())
            assert stream is not None
            assert len(client.ask(stream, b"")) == SIZE // count

        reading = [threading.Thread(target=read, args=(client,)) for client in clients]
        before, began = slow.traffic()[1], time.monotonic()
        for thread in reading:
            thread.start()
        while any(thread.is_alive() for thread in reading):
            # A burst, and what is not waited for.
            passed = slow.traffic()[1] - before
            assert passed / (MBPS * 10**6) < time.monotonic() - began + 0.013
            time.sleep(0.005)
        assert slow.traffic()[1] - before > SIZE // count * count


def test_the_rate_is_listed_and_off_by_default(phone: StartPhone, slow: VirtualPhone) -> None:
    fast = phone()
    listed = json.loads(CliRunner().invoke(command, ["list", "--json"]).output)["phones"]
    rates = {one["serial"]: one["link_mbps"] for one in listed}
    assert (rates[slow.serial], rates[fast.serial]) == (MBPS, None)
    zeros = ("-s", fast.serial, "exec-out", f"head -c {SIZE} /dev/zero")
    assert_takes(lambda: adb(*zeros), 0, SECONDS)
    with pytest.raises(UsageError, match="link_mbps"):
        PhoneSettings(link_mbps=0)


def _processor_seconds(phone: VirtualPhone) -> float:
    """Of the phone's supervisor, its server, and all they started and waited for."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if phone.record["pid"] in (int(fields[1]), int(stat.parent.name)):
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
