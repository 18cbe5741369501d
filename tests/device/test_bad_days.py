# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with phones: a typed error each, with what to do, through the command line."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest

from moe_mobile.device.select import open_device
from tests.cli.program import COMMAND, failed, ok, ok_json, run_cli
from tests.phones import StartPhone

GENERATE = ("--token-ids", "5,6,7", "-n", 4)


def failed_in(environment: dict[str, str], code: int, *arguments: object) -> dict[str, str]:
    """The error of a command in another environment."""
    result = run_cli(*arguments, "--json", env=os.environ | environment)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    error: dict[str, str] = json.loads(result.stdout)["error"]
    assert error["remedy"]
    return error


def test_no_usable_adb(tiny_bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    broken = tmp_path / "adb"
    broken.write_bytes(b"\x7fELF, for another machine")
    no_server = {"ANDROID_ADB_SERVER_PORT": "1", "ADBUTILS_ADB_PATH": str(broken)}
    for mode in (0o644, 0o755):
        broken.chmod(mode)
        error = failed_in(no_server, 12, "deploy", tiny_bundle)
        assert "no usable adb" in error["cause"]
        assert error["file"] == str(broken)
        assert "ADBUTILS_ADB_PATH" in error["remedy"]
    error = failed_in({"ANDROID_ADB_SERVER_PORT": "many"}, 12, "devices")
    assert error["setting"] == "ANDROID_ADB_SERVER_PORT"


def test_no_device_and_too_many(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    error = failed(12, "deploy", tiny_bundle)
    assert "no device" in error["cause"]
    assert "virtual-phone start" in error["remedy"]
    assert failed(12, "deploy", tiny_bundle, "--all")["code"] == "device"
    remedy = failed(12, "prepare", tiny_bundle, "--device", "R58M")["remedy"]
    assert "lists the connected ones" in remedy
    first, second = phone(), phone()
    error = failed(12, "deploy", tiny_bundle)
    assert first.serial in error["cause"]
    assert second.serial in error["cause"]
    assert "ANDROID_SERIAL" in error["remedy"]
    deployed = json.loads(
        run_cli(
            "deploy", tiny_bundle, "--json", env=os.environ | {"ANDROID_SERIAL": second.serial}
        ).stdout
    )
    assert deployed["deployments"][0]["device"] == second.serial
    everywhere = ok_json("deploy", tiny_bundle, "--all")["deployments"]
    assert {one["device"]: one["was_complete"] for one in everywhere} == {
        first.serial: False,
        second.serial: True,
    }


def test_invalid_serials_and_addresses(tiny_bundle: pathlib.Path) -> None:
    error = failed(2, "info", tiny_bundle, "--device", "")
    assert error["setting"] == "--device"
    assert error["remedy"]
    error = failed(2, "devices", "--connect", "127.0.0.1")
    assert error["setting"] == "--connect"
    assert "HOST:PORT" in error["cause"]
    assert "port" in error["remedy"]


def test_one_bad_phone_does_not_stop_the_others(
    phone: StartPhone, tiny_bundle: pathlib.Path
) -> None:
    bad, good = phone(), phone()
    bad.misbehave(full=True)
    result = run_cli("deploy", tiny_bundle, "-s", bad.serial, "-s", good.serial, "--json")
    first, second = json.loads(result.stdout)["deployments"]
    assert (first["device"], first["error"]["code"]) == (bad.serial, "disk_full")
    assert (second["device"], second["bytes_sent"]) == (good.serial, second["bytes"])
    assert result.returncode == 7
    assert bad.serial in result.stderr

    bad.misbehave(full=False, drop_after_sent=4000, drop_again=True)
    rows = ok_json("devices", tiny_bundle)["devices"]
    found = {row["serial"]: ("problem" in row, "fits" in row) for row in rows}
    assert found == {bad.serial: (True, False), good.serial: (False, True)}


def test_unauthorised(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    from moe_mobile.virtual_phone import Misbehaviour

    one = phone(misbehaviour=Misbehaviour(unauthorized=True))
    error = failed(12, "deploy", tiny_bundle, "--device", one.serial)
    assert "authorised" in error["cause"]
    assert "Allow USB debugging" in error["remedy"]
    listed = ok_json("devices")["devices"][0]
    assert listed["state"] == "unauthorized"
    assert "Allow USB debugging" in listed["problem"]
    assert ok("devices").count(one.serial) == 1


def test_a_phone_that_goes_away_and_comes_back(
    phone: StartPhone, tiny_bundle: pathlib.Path
) -> None:
    one = phone()
    ok("deploy", tiny_bundle)
    one.misbehave(offline=True, drop_after_received=1)
    run_cli("devices")  # makes it drop the connection
    error = failed(12, "generate", tiny_bundle, "--device", one.serial, *GENERATE)
    assert error["setting"] == one.serial
    assert "offline" in error["cause"]
    assert "adb disconnect" in error["remedy"]
    one.misbehave(offline=False)
    ok("generate", tiny_bundle, "--device", one.serial, *GENERATE)


def test_killed_for_memory(phone: StartPhone) -> None:
    from moe_mobile.errors import KilledError

    one = phone()
    device = open_device(one.serial)
    with device.runner() as runner:
        runner.request("digest", paths=[])
        one.misbehave(kill="moe_runner")
        with pytest.raises(KilledError, match="Kill 'moe_runner'") as caught:
            runner.request("info")
    with device.runner() as runner:
        runner.request("digest", paths=[])
        device.shell("kill -9 $(pgrep moe_runner)")
        # Not by the log of the process before.
        with pytest.raises(KilledError, match="was killed on the device, probably") as other:
            runner.request("info")
    assert other.value.exit_code == 13
    assert (caught.value.exit_code, one.serial in str(caught.value.file)) == (13, True)
    assert "`cache`" in str(caught.value.remedy)


def test_a_crash_of_the_engine(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    device = open_device(one.serial)
    ok("prepare", tiny_bundle, "--device", one.serial)
    command = [*COMMAND, "bench", str(tiny_bundle), "-s", one.serial, "--cool-to", "off", "--json"]
    command += ["-p", "0", "-n", "30", "-r", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            device.shell("kill -SEGV $(pgrep moe_runner)")
            time.sleep(0.2)
        stdout, _ = process.communicate(timeout=1200)
    error = json.loads(stdout)["error"]
    assert (process.returncode, error["code"]) == (10, "runtime")
    assert "SIGSEGV" in error["cause"]
    assert one.serial in error["file"]
    assert error["remedy"]


def test_an_arm64_phone_before_its_engine_is_built(
    phone: StartPhone, tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    one = phone(abi="arm64-v8a")
    environment = {"MOE_MOBILE_RUNTIME_DIR": str(tmp_path / "none")}
    error = failed_in(environment, 3, "deploy", tiny_bundle)
    assert "moe-mobile runtime build --target linux-arm64" in error["remedy"]
    assert one.serial in str(error)


def test_an_engine_for_another_machine(
    phone: StartPhone, tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from moe_mobile.runtime import cross, find_runtime

    arm, intel = phone(abi="arm64-v8a"), phone()
    # Copied from another machine, into the wrong place.
    folder = tmp_path / "linux-arm64" / cross.recipe().key
    shutil.copytree(find_runtime("x86_64").folder, folder)
    runtimes = {"MOE_MOBILE_RUNTIME_DIR": str(tmp_path)}
    error = failed_in(runtimes, 3, "deploy", tiny_bundle, "--device", arm.serial)
    assert "holds the runtime linux-x86_64/" in error["cause"]
    assert error["file"] == str(folder)
    assert "moe-mobile runtime build --target linux-arm64" in error["remedy"]
    # It gives a wrong name for itself.
    stated = json.loads((folder / "runtime.json").read_text())
    stated["recipe"] |= {"target": "linux-arm64", "abi": "arm64-v8a", "key": folder.name}
    (folder / "runtime.json").write_text(json.dumps(stated))
    error = failed_in(runtimes, 3, "generate", tiny_bundle, "--device", arm.serial, *GENERATE)
    assert error["cause"] == "is made for x86_64, and its runtime is for arm64-v8a"
    assert error["file"].startswith(str(folder))
    assert "moe-mobile runtime build --target linux-arm64" in error["remedy"]
    # A runner that is not for this kind of machine, and so not for this kind of phone.
    other = tmp_path / "moe_runner"
    program = bytearray((folder / "moe_runner").read_bytes())
    program[18:20] = (183).to_bytes(2, "little")
    other.write_bytes(program)
    other.chmod(0o755)
    error = failed_in(
        {"MOE_MOBILE_RUNNER": str(other)}, 3, "deploy", tiny_bundle, "-s", intel.serial
    )
    assert error["cause"].startswith("is made for aarch64")
    assert error["file"] == str(other)
    assert "MOE_MOBILE_RUNNER" in error["remedy"]


def test_an_engine_that_the_phone_cannot_execute(
    phone: StartPhone, tiny_bundle: pathlib.Path
) -> None:

    one = phone()
    ok("deploy", tiny_bundle)
    # Of the same size and age, so that it passes for what was verified.
    broken = open_device(one.serial).shell(
        "cd /data/local/tmp/moe-mobile/runtime/*/ && f=$(echo ld-*) && touch -r $f ../age && "
        "n=$(stat -c %s $f) && echo '#!/nowhere' > $f && truncate -s $n $f && touch -r ../age $f"
    )
    assert broken.exit_code == 0, broken.stderr
    # That nothing can be noted there does not hide why the engine ended.
    for mode in ("555", "755"):
        open_device(one.serial).shell(f"chmod {mode} /data/local/tmp/moe-mobile/runtime")
        error = failed(10, "generate", tiny_bundle, "-s", one.serial, *GENERATE)
        assert "the engine cannot run on this device" in error["cause"]
        assert one.serial in error["file"]
        assert "Run this again" in error["remedy"]
    ok("generate", tiny_bundle, "-s", one.serial, *GENERATE)


def test_a_bundle_of_another_version(
    phone: StartPhone, tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    phone()
    newer = tmp_path / "newer"
    shutil.copytree(tiny_bundle, newer)
    manifest = json.loads((newer / "bundle.json").read_text())
    (newer / "bundle.json").write_text(json.dumps(manifest | {"version": 2}))
    error = failed(3, "deploy", newer)
    assert error["file"] == str(newer / "bundle.json")
    assert "version" in error["cause"]


def test_a_store_of_another_executorch(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:

    one = phone()
    path = ok_json("deploy", tiny_bundle, "--consume")["deployments"][0]["path"]
    packed = open_device(one.serial).shell(
        f"cd {path}/.packed && mv * xnnpack-0.0.0-x86_64-00000000-p4096 && ls"
    )
    assert packed.stdout.strip() == "xnnpack-0.0.0-x86_64-00000000-p4096"
    # Its shards are gone, and the packed weights cannot be used: they are sent and packed again.
    told = run_cli("deploy", tiny_bundle)
    assert "note:" in told.stderr
    assert "xnnpack-0.0.0" in told.stderr
    ok("generate", tiny_bundle, "--device", one.serial, *GENERATE)
    assert ok_json("verify", tiny_bundle, "--device", one.serial)["packed"]["complete"]
    ok("deploy", tiny_bundle, "--prune")
    stores = open_device(one.serial).shell(f"ls {path}/.packed").stdout.split()
    assert len(stores) == 1
    assert "0.0.0" not in stores[0]
