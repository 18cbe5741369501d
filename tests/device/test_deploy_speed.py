# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Timing `deploy` against `adb push`: the same bytes, and no deployment is touched."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from benchmarks import deploy_speed
from moe_mobile.device.deploy.package import Package, Wanted
from moe_mobile.errors import IoError
from tests.cli.program import ok, ok_json, run_cli
from tests.device.test_bad_days import failed_in
from tests.device.test_deploy import device_of, length, sh
from tests.phones import StartPhone

TMP = "/data/local/tmp"
LIST = f"cd {TMP} && find */*/ -type f -exec stat -c '%n %s %Y' {{}} + | sort"


def timed(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.deploy_speed", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200)


def test_the_same_bytes_are_sent_and_nothing_is_lost(
    phone: StartPhone, tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    one = phone()
    bundle = tmp_path / "prepared"
    shutil.copytree(tiny_bundle, bundle, ignore=shutil.ignore_patterns(".packed"))
    ok("prepare", bundle)  # here: what it writes is not deployed
    ok("deploy", bundle, "--prepare")
    before = sh(one, LIST)
    assert ".packed" in before
    result = timed(bundle, "-s", one.serial, "-r", 2, "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["bytes"] == length(bundle)
    assert len(answer["turns"]) == 2
    for turn in answer["turns"]:
        assert 0 < turn["push_s"] < turn["push_and_sync_s"]
        assert turn["deploy_s"] > 0
    assert sh(one, LIST) == before
    assert "speed" not in sh(one, f"ls {TMP}")
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_failures_are_reported_as_by_all_commands(
    phone: StartPhone, tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    one = phone()
    for arguments, code, told in (
        ((tiny_bundle, "-s", "nosuch"), 12, "no such device"),
        ((tmp_path, "-s", one.serial), 4, "bundle.json"),
        ((tiny_bundle, "-s", one.serial, "-r", 0), 2, "--turns"),
    ):
        result = timed(*arguments)
        assert result.returncode == code, result.stderr
        assert told in result.stderr
        assert "Traceback" not in result.stderr
    with device_of(one).exclusive():
        result = timed(tiny_bundle, "-s", one.serial, "--json")
    assert result.returncode == 6
    assert "another command is measuring" in json.loads(result.stdout)["error"]["cause"]
    assert "speed" not in sh(one, f"ls {TMP}")

    consumed = tmp_path / "consumed"
    shutil.copytree(tiny_bundle, consumed, ignore=shutil.ignore_patterns(".packed"))
    ok("prepare", consumed, "--consume")
    result = timed(consumed, "-s", one.serial)
    assert result.returncode == 2
    assert "no whole bundle" in result.stderr

    one.misbehave(full=True)
    result = timed(tiny_bundle, "-s", one.serial)
    assert result.returncode == 7, result.stderr
    assert "no space left on the device" in result.stderr or "are free" in result.stderr


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EXDEV", "EMLINK", "EIO"])
def test_files_are_copied_if_links_cannot_be_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = tmp_path / "bundle" / "a"
    source.parent.mkdir()
    source.write_text("content")
    package = Package("bundles", "id", (Wanted("a", source, 7, "ab"),))

    def link(*arguments: object) -> None:
        code = getattr(errno, name)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    if name == "EIO":  # which a copy would meet too
        with pytest.raises(IoError), deploy_speed._staged(package, source.parent):
            pass
    else:
        with deploy_speed._staged(package, source.parent) as stage:
            assert (stage / "a").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_another_folder_of_the_phone(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    path = ok_json("deploy", tiny_bundle)["deployments"][0]["path"]
    elsewhere = {"MOE_MOBILE_PHONE_FOLDER": "other"}
    result = run_cli("deploy", tiny_bundle, "--json", env=os.environ | elsewhere)
    (answer,) = json.loads(result.stdout)["deployments"]
    assert answer["path"] == path.replace("moe-mobile", "other", 1)
    assert answer["bytes_sent"] == answer["bytes"]
    assert sh(one, f"ls {TMP}").split() == ["moe-mobile", "other"]
    for name in ("a/b", "..", "a b", "$(reboot)"):
        error = failed_in({"MOE_MOBILE_PHONE_FOLDER": name}, 2, "deploy", tiny_bundle)
        assert error["setting"] == "MOE_MOBILE_PHONE_FOLDER"
