# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Deploying to virtual phones through a real adb server."""

from __future__ import annotations

import hashlib
import pathlib
import random
import re
import shutil
import subprocess
import threading
import time
from typing import Any

import pytest

from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.deploy.attempt import Deployed
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.package import Package, Wanted, bundle_package
from moe_mobile.device.select import open_device
from moe_mobile.errors import CancelledError, DiskFullError
from moe_mobile.virtual_phone import VirtualPhone
from tests.cli.program import COMMAND, failed, ok, ok_json
from tests.phones import StartPhone, shell

MIB = 1 << 20


def device_of(phone: VirtualPhone) -> AdbDevice:
    device = open_device(phone.serial)
    assert isinstance(device, AdbDevice)
    return device


def length(bundle: pathlib.Path) -> int:
    return sum(
        path.stat().st_size
        for path in bundle.rglob("*")
        if path.is_file() and ".packed" not in path.parts
    )


def sh(phone: VirtualPhone, script: str) -> str:
    result = device_of(phone).shell(script)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_only_what_is_missing_is_sent(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    first = ok_json("deploy", tiny_bundle)["deployments"][0]
    assert (first["device"], first["was_complete"]) == (one.serial, False)
    assert first["bytes_sent"] == first["bytes"] == length(tiny_bundle)
    before = one.traffic()[0]
    again = ok_json("deploy", tiny_bundle)["deployments"][0]
    assert (again["bytes_sent"], again["was_complete"]) == (0, True)
    assert one.traffic()[0] - before < 16 << 10

    # A file that was changed there is noticed by its time, found damaged, and mended alone.
    sh(one, f"printf x | cat >> {first['path']}/config.json")
    mended = ok_json("deploy", tiny_bundle)["deployments"][0]
    assert mended["bytes_sent"] == (tiny_bundle / "config.json").stat().st_size
    # A file with a new time only is hashed there, not sent.
    sh(one, f"touch -d 2001-01-01T00:00:00 {first['path']}/config.json")
    assert ok_json("deploy", tiny_bundle)["deployments"][0]["bytes_sent"] == 0
    ok("verify", tiny_bundle, "--device", "any")


def test_recognising_a_bundle_takes_few_round_trips(
    phone: StartPhone, tiny_bundle: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = device_of(phone())
    device.deploy(tiny_bundle)
    scripts: list[str] = []
    shell = device._server.shell

    def counted(serial: str, script: str, **how: Any) -> object:
        scripts.append(script)
        return shell(serial, script, **how)

    monkeypatch.setattr(device._server, "shell", counted)
    assert device.deploy(tiny_bundle).was_complete
    assert 1 <= len(scripts) <= 3


def test_equal_files_of_another_bundle_are_not_sent(
    phone: StartPhone, tiny_bundle: pathlib.Path, large_bundle: pathlib.Path
) -> None:
    one = phone()
    ok("deploy", tiny_bundle)
    deployed = ok_json("deploy", large_bundle)["deployments"][0]
    assert deployed["bytes_copied"] > 0
    assert deployed["bytes_copied"] + deployed["bytes_sent"] == length(large_bundle)
    # The other one is still there, until it is given up.
    ok("verify", tiny_bundle, "--device", "any")
    ok("deploy", large_bundle, "--prune")
    assert sh(one, f"ls {phone_root()}/bundles").split() == [
        pathlib.Path(deployed["path"]).name,
        pathlib.Path(deployed["path"]).name + ".sums",
    ]
    assert failed(2, "verify", tiny_bundle, "--device", "any")["remedy"].startswith("Run")


def test_damaged_bytes_are_found_and_sent_again(
    phone: StartPhone, tiny_bundle: pathlib.Path, large_bundle: pathlib.Path
) -> None:
    one = phone()
    path = ok_json("deploy", tiny_bundle)["deployments"][0]["path"]

    def rot() -> None:
        sh(
            one,
            f"cd {path} && touch -r embedding.bin ../age && "
            "printf rot | dd of=embedding.bin bs=1 seek=99 conv=notrunc 2>/dev/null && "
            "touch -r ../age embedding.bin",
        )

    # Neither its size nor its time shows it; reading it does, and the error says what to do.
    rot()
    assert ok_json("deploy", tiny_bundle)["deployments"][0]["was_complete"]
    error = failed(5, "verify", tiny_bundle, "--device", "any")
    assert error["file"] == f"{path}/embedding.bin on {one.serial}"
    assert "moe-mobile deploy" in error["remedy"]
    mended = ok_json("deploy", tiny_bundle)["deployments"][0]
    assert mended["bytes_sent"] == (tiny_bundle / "embedding.bin").stat().st_size
    ok("verify", tiny_bundle, "--device", "any")

    # What was packed there is packed again, though the shards are gone.
    ok("deploy", tiny_bundle, "--consume")
    packed = sh(one, f"ls {path}/.packed/*/layer-00.packed").strip()
    sh(one, f"printf rot | dd of={packed} bs=1 seek=20000 conv=notrunc 2>/dev/null")
    error = failed(5, "verify", tiny_bundle, "--device", "any")
    assert error["file"] == f"{packed} on {one.serial}"
    assert "--prepare" in error["remedy"]
    ok("deploy", tiny_bundle, "--prepare")
    assert ok_json("verify", tiny_bundle, "--device", "any")["packed"]["complete"]
    methods = packed.replace("layer-00", "methods")
    sh(one, f"printf rot | dd of={methods} bs=1 seek=9000 conv=notrunc 2>/dev/null")
    assert failed(5, "verify", tiny_bundle, "--device", "any")["file"].startswith(methods)
    ok("deploy", tiny_bundle, "--consume")
    assert ok_json("verify", tiny_bundle, "--device", "any")["packed"]["complete"]

    # Another bundle does not inherit it either.
    rot()
    ok("deploy", large_bundle)
    ok("verify", large_bundle, "--device", "any")
    mended = ok_json("deploy", tiny_bundle)["deployments"][0]
    assert mended["bytes_copied"] == (tiny_bundle / "embedding.bin").stat().st_size


def test_many_files_with_long_paths_are_deployed(phone: StartPhone, tmp_path: pathlib.Path) -> None:
    one = phone()
    device = device_of(one)
    folder = f"{'a' * 240}/{'b' * 240}/{'c' * 240}"
    (tmp_path / folder).mkdir(parents=True)
    names = [f"{number:02}" for number in range(90)]  # their .sums takes more than 64 KiB
    for name in names:
        (tmp_path / folder / name).write_text(name)
    wanted = [
        Wanted(
            f"{folder}/{name}",
            tmp_path / folder / name,
            len(name),
            hashlib.sha256(name.encode()).hexdigest(),
        )
        for name in names
    ]
    package = Package(room="bundles", id="many", files=tuple(wanted))

    def once() -> Deployed:
        deployer = device._deployer
        return deployer.deploy(package, deployer.inventory(), device._sha256sum)

    assert once().files_sent == len(names)
    assert once().was_complete
    assert sh(one, f"cd {phone_root()}/bundles/many/{folder} && ls").split() == names


def test_a_writer_that_never_ends_does_not_block_the_next(
    phone: StartPhone, tiny_bundle: pathlib.Path
) -> None:
    one = phone()
    device = device_of(one)
    package = bundle_package(tiny_bundle)
    file = f"{phone_root()}/{package.partial}/bundle.json"
    # As after a connection that died silently, with half of the file.
    held = f"mkdir -p {file.rpartition('/')[0]}; exec 9>>{file}; flock 9; printf half >&9; echo up"
    with device.stream(f"{held}; sleep 100") as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"up\n"
        ok("deploy", tiny_bundle)
        assert writer.poll() is None
        writer.kill()
    ok("verify", tiny_bundle, "--device", "any")


def test_a_phone_without_flock(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    (one._folder.path / "root/system/bin/flock").unlink()
    error = failed(3, "deploy", tiny_bundle)
    assert "flock" in error["cause"]
    assert error["setting"] == one.serial


def test_an_abort_ends_a_deployment(phone: StartPhone, large_bundle: pathlib.Path) -> None:
    one = phone(link_mbps=20)
    device = device_of(one)
    aborts = threading.Thread(target=device.abort)

    def sent(stage: str, done: int, total: int, detail: str = "") -> None:
        if done > 0 and aborts.ident is None:
            aborts.start()

    with pytest.raises(CancelledError):
        device.deploy(large_bundle, progress=sent)
    aborts.join(300)
    assert not aborts.is_alive()
    # Of the seconds that it takes, there were some left: nothing has its final name.
    folder = f"{phone_root()}/{bundle_package(large_bundle).folder}"
    assert shell(one, f"ls -d {folder}").returncode != 0
    with pytest.raises(CancelledError):
        device.runner()


def _kill_while_sending(phone: VirtualPhone, bundle: pathlib.Path, after: int) -> None:
    start = phone.traffic()[0]
    process = subprocess.Popen(
        [*COMMAND, "deploy", str(bundle)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and phone.traffic()[0] - start < after:
        time.sleep(0.002)
    process.kill()
    process.wait()


def test_a_deployment_survives_twenty_broken_connections(
    phone: StartPhone, tiny_bundle: pathlib.Path, large_bundle: pathlib.Path
) -> None:
    one = phone()
    ok("deploy", tiny_bundle)  # brings the engine
    total = length(large_bundle)
    chance = random.Random(4)
    start = one.traffic()[0]
    for _ in range(10):
        _kill_while_sending(one, large_bundle, chance.randrange(64 << 10, total // 10))
    killed = one.traffic()[0] - start
    device = device_of(one)
    cuts = 0

    def cut(stage: str, done: int, total: int, detail: str = "") -> None:
        nonlocal cuts
        if cuts < 10 and done % 3 == 2:
            cuts += 1
            one.misbehave(drop_after_received=chance.randrange(1 << 10, 2 << 20))

    # One call goes on by itself as often as the connection breaks. A cut loses what is in flight,
    # about 1 MB.
    report = device.deploy(large_bundle, progress=cut)
    assert cuts == 10
    assert "ok" in ok("verify", large_bundle, "--device", "any")
    ok("verify", tiny_bundle, "--device", "any")
    assert one.traffic()[0] - start <= 1.2 * total, (killed, report)


def test_free_space_is_checked_before_anything_is_sent(
    phone: StartPhone, tiny_bundle: pathlib.Path, large_bundle: pathlib.Path
) -> None:
    one = phone(flash_size=80 * MIB)
    ok("deploy", tiny_bundle)
    before = one.traffic()[0]
    error = failed(7, "deploy", large_bundle)
    assert "are needed" in error["cause"]
    assert one.serial in error["file"]
    assert one.traffic()[0] - before < MIB
    ok("verify", tiny_bundle, "--device", "any")


def test_a_device_that_fills_up_meanwhile(
    phone: StartPhone, tiny_bundle: pathlib.Path, large_bundle: pathlib.Path
) -> None:
    one = phone()
    device = device_of(one)
    device.deploy(tiny_bundle)
    sent = 0

    def fill(stage: str, done: int, total: int, detail: str = "") -> None:
        nonlocal sent
        sent = done
        if done == 10:
            one.misbehave(full=True)

    with pytest.raises(DiskFullError) as caught:
        device.deploy(large_bundle, progress=fill)
    # A write fails; or the connection broke just then, and the room is judged once more.
    cause = caught.value.cause
    assert "no space left" in cause or re.search(r"and [\d.]+ [KM]?i?B are free", cause)
    assert sent >= 10
    one.misbehave(full=False)
    assert device.deploy(large_bundle).bytes_sent < length(large_bundle)


def test_consumed_shards_count_as_present(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    answer = ok_json("deploy", tiny_bundle, "--consume")["deployments"][0]
    assert answer["prepared"]["experts"] > 0
    assert sh(one, f"ls {answer['path']}/experts") == ""
    assert ok_json("deploy", tiny_bundle)["deployments"][0]["was_complete"]
    ok("verify", tiny_bundle, "--device", "any")
    ok("generate", tiny_bundle, "--device", "any", "--token-ids", "5,6", "-n", 3)
    # Without the packed file, what was consumed is sent again.
    sh(one, f"rm {answer['path']}/.packed/*/layer-*.packed")
    assert ok_json("deploy", tiny_bundle)["deployments"][0]["bytes_sent"] > 0
    ok("verify", tiny_bundle, "--device", "any")


def test_replace_deletes_the_old_bundle_first(
    phone: StartPhone, tiny_bundle: pathlib.Path, large_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    phone(flash_size=200 * MIB)
    ok("deploy", large_bundle)
    other = tmp_path / "other"
    shutil.copytree(large_bundle, other)
    manifest = (other / "bundle.json").read_text()
    (other / "bundle.json").write_text(manifest.replace('"extra-0.bin"', '"extra-9.bin"'))
    (other / "extra-0.bin").rename(other / "extra-9.bin")
    ok("deploy", other, "--replace")
    ok("verify", other, "--device", "any")
    assert failed(2, "verify", large_bundle, "--device", "any")["code"] == "usage"


@pytest.mark.slow
def test_a_file_of_more_than_4_gib(phone: StartPhone, tmp_path: pathlib.Path) -> None:
    one = phone()
    device = device_of(one)
    path = tmp_path / "large"
    with path.open("wb") as file:  # a hole, except for both ends
        file.write(b"first")
        file.seek((4 << 30) + (16 << 20) + 12345)
        file.write(b"last")
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    package = Package(room="bundles", id="large", files=(Wanted("large", path, size, digest),))
    deployer = device._deployer

    # The connection breaks beyond 4 GiB, then the file is continued.
    one.misbehave(drop_after_received=(4 << 30) + (4 << 20))
    sent = deployer.deploy(package, deployer.inventory(), device._sha256sum)
    assert size < sent.bytes_sent < 1.01 * size
    assert one.traffic()[0] < 1.01 * size
    assert sh(
        one, f"stat -c %s {phone_root()}/bundles/large/large; tail -c 4 {sent.path}/large"
    ) == (f"{size}\nlast")
