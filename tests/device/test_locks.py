# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Who may write on a phone, and for how long."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections.abc import Callable

import pytest

from moe_mobile.device.deploy import deploy, lock
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.lock import Lock
from moe_mobile.device.shell_stream import ShellStream
from moe_mobile.errors import IoError
from tests.cli.program import COMMAND, ok
from tests.device.test_deploy import MIB, device_of, length, sh
from tests.phones import StartPhone, wait_until


def test_one_command_at_a_time_deploys(
    phone: StartPhone,
    tiny_bundle: pathlib.Path,
    large_bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = phone()
    command = [*COMMAND, "deploy", str(tiny_bundle)]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdout=pipe, stderr=pipe) for _ in range(2)]
    told = [process.communicate(timeout=1200) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    ok("verify", tiny_bundle, "--device", "any")

    # A command that takes long is not waited for.
    device = device_of(one)
    monkeypatch.setattr(deploy, "_LOCK_SECONDS", 1)
    with device._deployer.deploying():
        with pytest.raises(IoError, match="another command"):
            device.deploy(large_bundle)
        assert device.deploy(tiny_bundle).was_complete


def test_a_lock_is_free_once_its_owner_is_silent(
    phone: StartPhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = device_of(phone())
    monkeypatch.setattr(lock, "STALE_S", 600)

    def take(wait_s: float) -> contextlib.AbstractContextManager[lock.Lock]:
        return lock.lock(device._server, device.serial, ".test", "it is busy", wait_s)

    with take(0), pytest.raises(IoError, match="it is busy"), take(2):
        pass
    with take(300) as held:  # the phone may notice a little later that the stream has ended
        assert not held.lapsed
    monkeypatch.setattr(lock, "STALE_S", 1)
    monkeypatch.setattr(lock, "_BEAT_S", 1000)  # as a connection that died silently
    with take(300) as silent, take(300):
        wait_until(lambda: silent.lapsed)


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sleeps as a laptop that is closed for longer than its locks last: what holds them on the
    phone ends, here because it has no more input."""
    monkeypatch.setattr(lock, "STALE_S", 600)
    made: list[lock.Lock] = []

    def make(guard: str, stream: ShellStream) -> lock.Lock:
        made.append(Lock(guard, stream))
        return made[-1]

    def sleep() -> None:
        for one in made:
            if one._stream._socket.fileno() < 0:
                continue  # given back
            with one._reading:
                one._stream.within(600)
                one._stream.close_stdin()
            wait_until(lambda one=one: one.lapsed)  # type: ignore[misc]

    monkeypatch.setattr(lock, "Lock", make)
    return sleep


def test_after_a_sleep_a_lapsed_lock_is_noticed(
    phone: StartPhone,
    tiny_bundle: pathlib.Path,
    large_bundle: pathlib.Path,
    asleep: Callable[[], None],
) -> None:
    one = phone()
    device = device_of(one)
    device.deploy(tiny_bundle)
    slept: list[int] = []

    def nap(stage: str, done: int, total: int, detail: str = "") -> None:
        if done > 20 and not slept:
            slept.append(done)
            asleep()

    with pytest.raises(IoError, match="was inactive for so long") as caught:
        device.deploy(large_bundle, progress=nap)
    assert caught.value.remedy is not None
    assert caught.value.remedy.startswith("Run it again")
    assert device.deploy(large_bundle).bytes_sent < length(large_bundle)
    assert device.deploy(large_bundle).was_complete

    # Whether or not somebody else has it by now, and whatever is written under it.
    deployer = device._deployer
    for other in (False, True):
        with contextlib.ExitStack() as stack:
            stack.enter_context(deployer.deploying())
            deployer._remote.run("true")
            asleep()
            if other:
                stack.enter_context(device_of(one)._deployer.deploying())
            with pytest.raises(IoError, match="was inactive for so long"):
                deployer._remote.run("rm -rf bundles")
    with device.exclusive():
        device.check_exclusive()
        asleep()
        with pytest.raises(IoError, match="was inactive for so long"):
            device.check_exclusive()
    device.check_exclusive()
    assert device.deploy(tiny_bundle).was_complete


def test_a_full_device_is_locked_all_the_same(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    device = device_of(one)
    device.deploy(tiny_bundle)
    for held in ("a", "b"):  # a file with a mark, and one without
        if held == "b":
            sh(one, f"cd {phone_root()} && rm .deploy .bench && : > .deploy && : > .bench")
        one.misbehave(full=True)
        with device._deployer.deploying(), device.exclusive():
            device.check_exclusive()
            with (
                pytest.raises(IoError, match="another command is measuring"),
                device_of(one).exclusive(),
            ):
                pass
        one.misbehave(full=False)
    # What makes room works on a full phone.
    there = sh(one, f"ls {phone_root()}/bundles").split()
    assert there
    one.misbehave(full=True)
    device._deployer.remove([f"bundles/{name}" for name in there])
    assert sh(one, f"ls {phone_root()}/bundles").split() == []


def test_pruning_under_a_bench_is_refused_before_anything_is_sent(
    phone: StartPhone, tiny_bundle: pathlib.Path, large_bundle: pathlib.Path
) -> None:
    one = phone()
    device = device_of(one)
    device.deploy(tiny_bundle)
    before = one.traffic()[0]
    with device_of(one).exclusive():
        with pytest.raises(IoError, match="another command is measuring"):
            device.deploy(large_bundle, prune=True)
        assert one.traffic()[0] - before < MIB
        device.deploy(tiny_bundle, prune=True)  # deletes nothing
    device.deploy(large_bundle, prune=True)
    assert len(device._deployer.inventory().folders("bundles")) == 1
