# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory that a phone has not got is not had, by whatever limits it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_mobile.virtual_phone import PhoneSettings, VirtualPhone, start
from moe_mobile.virtual_phone.settings import SMALLEST_RAM
from tests.phones import (
    HOME,
    MEBIBYTE,
    StartPhone,
    assert_takes,
    available,
    born,
    needs_limiter,
    shell,
    wait_until,
)

RAM = 200 * MEBIBYTE
# Reads a block of that size into memory, not faster than a watchdog can look.
HOG = "cat /dev/zero | dd of=/dev/null bs={size} count=1 iflag=fullblock"


@pytest.fixture(scope="module", params=["cgroup2", "cgroup1", "systemd", "watchdog"])
def limited(request: pytest.FixtureRequest, adb_server: int) -> Iterator[VirtualPhone]:
    """A phone of 200 MiB, by every limiter that this machine has; the watchdog is everywhere."""
    with needs_limiter(request.param):
        one = start(PhoneSettings(ram=RAM, limiter=request.param))
    yield one
    one.stop()


def test_memory_can_be_limited_on_this_machine(phone: StartPhone) -> None:
    one = phone(ram=RAM)
    assert one.record["limit"] in ("hard", "soft")
    assert shell(one, "getprop ro.moe_mobile.limit").stdout == one.record["limit"] + "\n"
    if os.geteuid() == 0 and Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        assert one.record["limit"] == "hard"


def test_a_process_that_uses_more_is_killed(limited: VirtualPhone) -> None:
    def named() -> bool:
        """Its name is known if the phone looked before the kernel killed it, on a busy machine not
        each time."""
        before = shell(limited, "logcat -d").stdout
        assert shell(limited, HOG.format(size="400M")).returncode == 137
        wait_until(lambda: shell(limited, "logcat -d").stdout != before)
        match = re.search(
            r" lowmemorykiller: Kill '(\w+)' \((\d+)\), uid 2000, oom_score_adj 1000 to free "
            r"(\d+)kB rss, 0kB swap; reason: ",
            log := shell(limited, "logcat -d").stdout.removeprefix(before),
        )
        assert match is not None, log
        assert match[1] in ("dd", "unknown")
        return match[1] == "dd"

    wait_until(named)
    assert shell(limited, "exit 5").returncode == 5


def test_a_process_that_fits_is_not_killed(limited: VirtualPhone) -> None:
    before = shell(limited, "logcat -d").stdout
    assert shell(limited, HOG.format(size="120M")).returncode == 0
    # Files do not count: they can be read again.
    script = f"head -c 300M /dev/zero > {HOME}/file && cat {HOME}/file > /dev/null; rm {HOME}/file"
    assert shell(limited, script).returncode == 0
    assert shell(limited, "logcat -d").stdout == before


def test_meminfo_shows_the_free_memory(limited: VirtualPhone) -> None:
    total = shell(limited, "grep MemTotal /proc/meminfo").stdout.split()[1]
    assert int(total) * 1024 == RAM
    free = available(limited)
    assert 0.9 * RAM < free <= RAM
    # Holds its block while it waits for the rest.
    script = f"(head -c 100M /dev/zero; sleep 30) | dd of={HOME}/o bs=120M iflag=fullblock"
    shell(limited, f'nohup sh -c "{script}" >/dev/null 2>&1 </dev/null &')
    wait_until(lambda: available(limited) <= free - 80 * MEBIBYTE)
    shell(limited, "pkill dd")


def test_flash_is_as_slow_as_asked(phone: StartPhone) -> None:
    one = phone(flash_mbps=20)
    limit = one.record["flash_limit"]
    assert shell(one, "getprop ro.moe_mobile.flash_limit").stdout == f"{limit}\n"
    if limit == "none":
        pytest.skip("this machine cannot limit the bandwidth of flash")
    shell(one, f"head -c 10000000 /dev/zero > {HOME}/file; sync")

    def read() -> None:
        script = f"dd if={HOME}/file of=/dev/null bs=1000k iflag=direct"
        assert shell(one, script).returncode == 0

    assert_takes(read, 0.3, 3)


@pytest.fixture(params=["cgroup2", "cgroup1", "systemd"])
def hard_limiter(request: pytest.FixtureRequest, phone: StartPhone) -> str:
    """Each limiter with which the kernel keeps the limit, and chooses which process to kill."""
    with needs_limiter(request.param):
        phone(ram=RAM, limiter=request.param)
    return str(request.param)


@pytest.mark.parametrize("ram", [SMALLEST_RAM, 48 * MEBIBYTE])
def test_the_phone_itself_is_never_killed(phone: StartPhone, hard_limiter: str, ram: int) -> None:
    one = phone(ram=ram, limiter=hard_limiter)
    before = born(one)
    assert before
    # Each is smaller than the phone's own process 1, and together they are too much. All of them
    # keep what they have until one was killed.
    hold = "head -c 6M /dev/zero; until [ -e go ]; do sleep 0.2; done"
    block = f"({hold}) | dd of=/dev/null bs=7M iflag=fullblock"
    script = " & ".join([f"({block})"] * 8)
    go_on = f"touch {HOME}/go; pgrep -x dd; pgrep -x head; echo none"

    def kills() -> int:
        return shell(one, "logcat -d").stdout.count("lowmemorykiller")

    for _ in range(3):
        logged = kills()
        begin = f"nohup sh -c '{script}' >/dev/null 2>&1 </dev/null &"
        shell(one, f"cd {HOME}; rm -f go; {begin}")
        wait_until(lambda logged=logged: kills() > logged)  # type: ignore[misc]
        # Any of their shells may be killed, and this one too: it is started until it says that all
        # of them have ended.
        wait_until(lambda: shell(one, go_on).stdout == "none\n")
        assert born(one) == before
        assert "'init'" not in shell(one, "logcat -d").stdout


def test_a_phone_that_is_killed_logs_it_and_restarts(phone: StartPhone, hard_limiter: str) -> None:
    one = phone(ram=SMALLEST_RAM, limiter=hard_limiter)
    before = born(one)
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            parent = Path("/proc", fields["PPid"], "status").read_text()
            if fields["NSpid"].split()[-1] == "1" and f"PPid:\t{one.record['pid']}\n" in parent:
                status.with_name("oom_score_adj").write_text("1000")
    blocks = [f"({HOG.format(size='7M')}; sleep 4)"] * 8
    shell(one, " & ".join(blocks) + " & wait")
    shell(one, f"{HOG.format(size='40M')}")
    wait_until(lambda: born(one) not in ("", before))
    killed = r"lowmemorykiller: Kill 'init' \(1\): the phone restarts; reason: memory"
    wait_until(lambda: bool(re.search(killed, shell(one, "logcat -d").stdout)))
