# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Phones that are silent, drip, flood or lie: a typed error, in bounded time and memory."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from moe_mobile.base import limits
from moe_mobile.bench.sampler import Sampler
from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.lock import Lock
from moe_mobile.device.deploy.package import bundle_package
from moe_mobile.device.lost import LostError
from moe_mobile.device.select import open_device
from moe_mobile.errors import DeviceError, DiskFullError, MoeMobileError, RuntimeFailedError
from moe_mobile.runner.awaited import Awaited
from tests.cli.program import ok, ok_json
from tests.device.liar import (
    STDERR,
    STDOUT,
    Deaf,
    Endless,
    Instead,
    Lie,
    Silent,
    Stuck,
    Tell,
    liar,
)
from tests.phones import StartPhone, wait_until

MIB = 1 << 20
PIECES = ". ./.to."
ENGINE = "moe_runner --attached"
SAMPLES = "smaps_rollup"
LOCK = "echo marked; else echo held"
# Of Python's memory. Deploying reads the engine's files, 60 MB.
MEMORY = 160 * MIB
FLOOD = b"x" * (1 << 16)

WithLies = Callable[..., AdbDevice]


@pytest.fixture
def lying(
    phone: StartPhone,
    adb_server: int,
    tiny_bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[WithLies]:
    """A function that gives a device behind these lies. It has the engine, and limits are short."""
    device = open_device(phone().serial)
    assert isinstance(device, AdbDevice)
    device.place_runtime(device._deployer.inventory())
    with contextlib.ExitStack() as stack:

        def start(*lies: Lie, **short: float) -> AdbDevice:
            port = stack.enter_context(liar(adb_server, *lies))
            stack.enter_context(_memory())
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
            behind = open_device(device.serial)
            assert isinstance(behind, AdbDevice)
            behind.place_runtime(device._deployer.inventory())
            for name, value in short.items():
                monkeypatch.setattr(limits, name, value)
            return behind

        yield start


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def _stored(device: AdbDevice) -> int:
    return sum(file.bytes for file in device._deployer.inventory().files.values())


# Sending


def test_what_is_taken_and_never_acknowledged(lying: WithLies, tiny_bundle: pathlib.Path) -> None:
    # The limit holds for the honest part too, in which a shell starts.
    device = lying(Silent(PIECES), PIECE_S=20.0)
    before = _stored(device)
    with pytest.raises(LostError, match="no answer in 20 s while files were sent") as caught:
        device.deploy(tiny_bundle)
    assert (caught.value.code, caught.value.exit_code) == ("device", 12)
    assert "continues where it stopped" in str(caught.value.remedy)
    assert _stored(device) == before


def test_what_is_taken_and_never_kept(lying: WithLies, tiny_bundle: pathlib.Path) -> None:
    device = lying(Deaf(PIECES))
    with pytest.raises(DeviceError, match=r"took \d+ bytes of this file and says that it has 0"):
        device.deploy(tiny_bundle)


def test_what_is_taken_before_each_break(lying: WithLies, tiny_bundle: pathlib.Path) -> None:
    pieces = Deaf(PIECES, breaks=True)
    device = lying(pieces)
    with pytest.raises(LostError, match="the connection broke while files were sent"):
        device.deploy(tiny_bundle)


def test_what_is_only_said_to_be_kept(lying: WithLies, tiny_bundle: pathlib.Path) -> None:
    """The phone says what the client hopes for, and has nothing."""

    class Promise(Deaf):
        def says(self, kind: int, data: bytes, tell: Any) -> None:
            tell(kind, b"999999999\n" if kind == STDOUT else data)

    device = lying(Promise(PIECES))
    with pytest.raises(MoeMobileError) as caught:
        device.deploy(tiny_bundle)
    assert "says that it has 999999999" in caught.value.cause


def test_a_script_that_fails_is_not_run_again(lying: WithLies, tiny_bundle: pathlib.Path) -> None:
    class Count(Lie):
        runs = 0

        def heard(self, kind: int, data: bytes) -> bool:
            self.runs += b"mkdir -p" in data
            return True

    making = Count("mkdir -p bundles")
    device = lying(making)
    # Where a folder should be there is a file.
    partial = f"{phone_root()}/{bundle_package(tiny_bundle).partial}"
    assert device.shell(f"mkdir -p {phone_root()}/bundles; touch {partial}").exit_code == 0
    with pytest.raises(DeviceError, match="a script failed there: mkdir") as caught:
        device.deploy(tiny_bundle)
    assert not isinstance(caught.value, LostError)
    assert making.runs == 1


# Locks


class Besides(Lie):
    """Prints something on standard error after each line."""

    def says(self, kind: int, data: bytes, tell: Tell) -> None:
        tell(kind, data)
        if kind == STDOUT:
            tell(STDERR, b"sh: warning: something\n")


def test_a_lock_whose_shell_prints_warnings(lying: WithLies, tiny_bundle: pathlib.Path) -> None:
    device = lying(Besides(LOCK))
    with device.alone():
        held = device._deployer._remote._held
        wait_until(lambda: not any(one.lapsed for one in held) and _warned(held))
        device.check_exclusive()
    device.deploy(tiny_bundle)


class Word(Lie):
    """Another than expected."""

    def says(self, kind: int, data: bytes, tell: Tell) -> None:
        tell(kind, b"yes\n" if kind == STDOUT else data)


def _warned(held: list[Lock]) -> bool:
    return all(b"warning" in one._stream.stderr for one in held)


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        (Endless(LOCK, STDERR, FLOOD, after=b"marked"), "does not stop printing"),
        (Word(LOCK), "odd answer about its lock: 'yes'"),
    ],
    ids=["flood", "word"],
)
def test_a_lock_that_says_anything(lying: WithLies, lie: Lie, told: str) -> None:
    device = lying(lie)

    def look() -> bool:
        device.check_exclusive()
        return False

    with pytest.raises(DeviceError, match=told), device.exclusive():
        wait_until(look)


# Listings and scripts


@pytest.mark.parametrize(
    "listing", [b"what is this\n", b"1 2\n", b"9" * 5000 + b" 1 ./a\n", b"\xff\n", b"-1 -1 ./a\n"]
)
def test_an_odd_listing(lying: WithLies, tiny_bundle: pathlib.Path, listing: bytes) -> None:
    device = lying(Instead("-not -path './.packed/*'", listing))
    with pytest.raises(DeviceError, match="it gave an odd listing"):
        device.deploy(tiny_bundle)


@pytest.mark.parametrize("listing", [b"", b"@@@ files\n1 1 bundles/a/b\n"])
def test_an_inventory_that_does_not_say_what_is_free(
    lying: WithLies, tiny_bundle: pathlib.Path, listing: bytes
) -> None:
    """It is not of our script. Nothing is known of the phone: neither its files nor its space."""
    device = lying(Instead("@@@ folders", listing))
    with pytest.raises(DeviceError, match="it gave an odd listing"):
        device.deploy(tiny_bundle)


def test_facts_that_are_missing_are_unknown(lying: WithLies, tiny_bundle: pathlib.Path) -> None:
    device = lying(Instead("section meminfo", b"@@@ props\n"))
    table = ok("devices", tiny_bundle)
    assert "unknown of unknown" in table
    assert "unknown: space and memory" in table
    (row,) = ok_json("devices", tiny_bundle)["devices"]
    assert row["serial"] == device.serial
    assert (row["ram_bytes"], row["free_bytes"], row["page_size"]) == (None, None, None)
    assert (row["fits"]["space"], row["fits"]["memory"]) == (None, None)


@pytest.mark.parametrize(
    "listing",
    [b"", b"@@@ sums x\n", b"@@@ folders\nbundles/../\n@@@ files\n1 1 bundles/../../x\n1 1 x\n",
     b"@@@ files\n" + b"1 1 bundles/a/b\n" * 1000, b"\0" * 100_000],
)  # fmt: skip
def test_an_inventory_of_anything(
    lying: WithLies, tiny_bundle: pathlib.Path, listing: bytes
) -> None:
    """Whatever it lists, paths stay in our folders."""
    device = lying(Instead("@@@ folders", b"/dev/x 100 60 40 60% /data\n" + listing))
    there = device._deployer.inventory()
    assert there.free_bytes == 40 * 1024
    assert not {name for name in there.files if ".." in name}
    assert not there.folders("bundles") & {"..", "."}
    with pytest.raises(DiskFullError, match=r"[\d.]+ MiB more are needed, and 40\.0 KiB are free"):
        device.deploy(tiny_bundle)


@pytest.mark.parametrize(("pause", "told"), [(0.0, "does not stop printing"), (0.05, "in 2 s")])
@pytest.mark.parametrize("kind", [STDOUT, STDERR])
def test_a_script_without_end(lying: WithLies, kind: int, pause: float, told: str) -> None:
    endless = Endless("echo hello", kind, b"x" if pause else FLOOD, pause=pause)
    device = lying(endless, **({"ANSWER_S": 2.0} if pause else {}))
    with pytest.raises(DeviceError, match=told):
        device.shell("echo hello")
    assert endless.told < 2 * limits.OUTPUT_BYTES


# The engine


def _generate(device: AdbDevice, bundle: pathlib.Path, opened: Callable[[], None]) -> object:
    folder = device.place(bundle)
    with device.runner() as runner:
        runner.request("open", bundle=folder, settings={"cache": "100%"})
        opened()
        answer = runner.request("generate", token_ids=[5, 6, 7], max_new_tokens=4, ignore_eos=True)
    return answer["token_ids"]


FIRST = b'"token"'


class Drip(Silent):
    """Progress in place of what comes after ``after``, by one of a huge number at a time."""

    def says(self, kind: int, data: bytes, tell: Tell) -> None:
        super().says(kind, data, tell)
        if self._over:
            self._begin.set()

    def __init__(self, about: str, after: bytes) -> None:
        super().__init__(about, after)
        self._begin = threading.Event()

    def began(self, tell: Tell) -> None:
        self._begin.wait()
        for done in itertools.count():
            if self.stop.wait(0.05):
                return
            tell(STDOUT, _event(event="progress", stage="verify", done=done, total=1 << 60))


def _event(**members: object) -> bytes:
    return json.dumps({"id": 2, **members}).encode() + b"\n"


@pytest.mark.parametrize(
    ("lie", "error", "told"),
    [
        (Silent(ENGINE, FIRST), DeviceError, r"got no further for \d+ s and does not compute"),
        (
            Endless(ENGINE, STDOUT, b" ", pause=0.1, after=FIRST),
            DeviceError,
            r"got no further for \d+ s and does not compute",
        ),
        (
            Endless(ENGINE, STDERR, FLOOD, after=FIRST),
            DeviceError,
            r"got no further for \d+ s and does not compute",
        ),
        (
            Endless(
                ENGINE,
                STDOUT,
                _event(event="progress", stage="prefill", done=1, total=9),
                pause=0.05,
                after=FIRST,
            ),
            DeviceError,
            r"got no further for \d+ s and does not compute",
        ),
        (Drip(ENGINE, after=FIRST), DeviceError, r"got no further for \d+ s and does not compute"),
        (Endless(ENGINE, STDOUT, FLOOD, after=FIRST), RuntimeFailedError, "a line of more than"),
        (
            Endless(ENGINE, STDOUT, _event(event="token", token=3), after=FIRST),
            RuntimeFailedError,
            "more tokens than were asked for",
        ),
        (
            Endless(
                ENGINE,
                STDOUT,
                _event(event="progress", stage="prefill", done=10, total=9),
                after=FIRST,
            ),
            RuntimeFailedError,
            "progress beyond its end",
        ),
        (
            Endless(ENGINE, STDOUT, 100 * _event(event="news"), after=FIRST),
            RuntimeFailedError,
            r"more than \d+ events before one answer",
        ),
    ],
    ids=["silent", "drips", "floods stderr", "no headway", "drips progress", "floods stdout",
         "tokens", "progress", "events"],
)  # fmt: skip
def test_an_engine_that_lies(
    lying: WithLies,
    tiny_bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    lie: Lie,
    error: type[Exception],
    told: str,
) -> None:
    device = lying(lie, EVENTS=500)

    def opened() -> None:
        if error is DeviceError:  # what was honest until now is not timed
            monkeypatch.setattr(limits, "SILENCE_S", 1.0)

    with pytest.raises(error, match=told) as caught:
        _generate(device, tiny_bundle, opened)
    assert device.serial in str(caught.value)
    assert "doctor" not in str(caught.value)  # which knows nothing of phones


def test_progress_counts_by_thousandths() -> None:
    def ahead(*done: int, total: int) -> list[bool]:
        awaited, found = Awaited({"id": 1, "command": "verify"}), []
        for number in done:
            awaited._last = 0.0
            event = {"id": 1, "event": "progress", "stage": "verify"}
            assert awaited.take({**event, "done": number, "total": total}) is None
            found.append(awaited._last > 0)
        return found

    assert ahead(0, 1, 9_999, 10_000, 19_999, 20_000, total=10_000_000) == [
        True, False, False, True, False, True,
    ]  # fmt: skip
    # Layers of a long prompt, files of a bundle of 60 GB with a small one.
    assert ahead(0, 0, 3, 4, 7, 8, total=4000) == [True, False, False, True, False, True]
    gb = 10**9
    assert ahead(gb, gb + 50, 2 * gb, 60 * gb, total=60 * gb) == [True, False, True, True]
    assert ahead(1, 2, 2, 3, total=3) == [True, True, False, True]


def test_an_engine_that_computes_may_be_silent(
    lying: WithLies, wide_bundle: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = lying()
    folder = device.place(wide_bundle)
    silences: list[float] = []
    works = Awaited.works

    def looked(awaited: Awaited, work: float | None) -> bool:
        silences.append(awaited.silent_s)
        return works(awaited, work)

    monkeypatch.setattr(Awaited, "works", looked)
    bench: dict[str, Any] = {"n_prompt": 0, "repetitions": 1, "warmup": False}
    tokens, limit, most = 100, 3.0, 16000
    with device.runner() as runner:
        runner.request("open", bundle=folder, settings={"cache": "100%", "context": 16384})
        while len(silences) < 2:  # the second look sees whether it computed since the first
            monkeypatch.setattr(limits, "SILENCE_S", limit)
            silences.clear()
            sample = runner.request("bench", n_gen=tokens, **bench)["samples"][0]
            assert len(sample["itl_ns"]) == tokens
            if tokens < most:
                tokens = min(most, int(tokens * 3 * limit / (sample["gen_ns"] / 1e9)) + 1)
            elif len(silences) < 2:  # a quick machine
                limit /= 2
                assert limit > 0.1
    assert silences[-1] >= 2 * limit


def test_a_request_that_nobody_takes(lying: WithLies) -> None:
    device = lying(Stuck(ENGINE), SILENCE_S=20.0, LEAST_RATE=1e9)
    with device.runner() as runner, pytest.raises(DeviceError, match="did not take a request"):
        runner.request("verify", bundle="x" * (32 * MIB))


# Samples


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (FLOOD, "a line of more than"),
        (b"x" * 8000 + b"\n", "a sample of more than"),
        (b"@@@ end\n" * 100, "samples in"),
    ],
)
def test_samples_without_end(lying: WithLies, data: bytes, told: str) -> None:
    endless = Endless(SAMPLES, STDOUT, data)
    device = lying(endless)
    sampler = Sampler(device, 1, {})
    wait_until(lambda: not sampler._thread.is_alive())
    sampler.stop(time.monotonic())
    with pytest.raises(DeviceError, match=told) as caught:
        sampler.check()
    assert caught.value.setting == device.serial
