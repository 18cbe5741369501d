# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings that are sent with a bundle, or without it if only they changed."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import pytest

from moe_mobile.bundle import inspect_bundle
from moe_mobile.device.deploy.package import SETTINGS, bundle_package
from moe_mobile.errors import UsageError
from moe_mobile.tune.settings_file import write_settings
from tests.cli.program import failed, ok, ok_json
from tests.device.test_deploy import device_of, length, sh
from tests.phones import StartPhone
from tests.tune.test_settings_file import EXACT, FILE


def test_settings_go_along(
    phone: StartPhone, tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    one = phone()
    digest = inspect_bundle(tiny_bundle)["hash"]
    settings = dataclasses.replace(FILE, bundle_hash=digest, model="tiny", choices=(EXACT,))
    path = tmp_path / "chosen.json"
    size = write_settings(path, settings)
    with_it = ("deploy", tiny_bundle, "--settings", path)

    first = ok_json(*with_it)["deployments"][0]
    assert first["bytes_sent"] == first["bytes"] == length(tiny_bundle) + size
    assert first["settings"] == f"{first['path']}/{SETTINGS}"
    assert sh(one, f"cat {first['settings']}") == path.read_text()
    again = ok_json(*with_it)["deployments"][0]
    assert (again["was_complete"], again["bytes_sent"]) == (True, 0)

    # A deployment without them leaves them where they are, and so does what runs there.
    plain = ok_json("deploy", tiny_bundle)["deployments"][0]
    assert (plain["was_complete"], plain["settings"]) == (True, None)
    ok("verify", tiny_bundle, "--device", "any")
    ok("generate", tiny_bundle, "--device", "any", "--token-ids", "5,6", "-n", 2, *with_it[2:])

    # Changed ones are sent alone, whether or not their length is another.
    for changed in ("+2%", "+20%"):
        size = write_settings(path, dataclasses.replace(settings, limit=changed))
        sent = ok_json(*with_it)["deployments"][0]
        assert (sent["bytes_sent"], sent["path"]) == (size, first["path"])
        assert sh(one, f"cat {sent['settings']}") == path.read_text()
        assert ok_json(*with_it)["deployments"][0]["was_complete"]
    ok("verify", tiny_bundle, "--device", "any")


def test_settings_of_another_bundle_are_not_sent(
    tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "chosen.json"
    write_settings(path, FILE)
    error = failed(2, "deploy", tiny_bundle, "--settings", path)
    assert FILE.bundle_hash in error["cause"]
    assert inspect_bundle(tiny_bundle)["hash"] in error["cause"]
    assert error["file"] == str(path)


def test_settings_count_as_a_file_of_the_package(
    tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "chosen.json"
    write_settings(path, FILE)
    plain, package = bundle_package(tiny_bundle), bundle_package(tiny_bundle, path)
    assert package.id == plain.id
    assert package.bytes == plain.bytes + path.stat().st_size
    # The manifest stays the last.
    assert [file.path for file in package.files[-2:]] == [SETTINGS, "bundle.json"]
    assert package.files[-2].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_name_that_is_taken(
    tiny_bundle: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chosen.json"
    write_settings(path, FILE)
    monkeypatch.setattr("moe_mobile.device.deploy.package.SETTINGS", "config.json")
    with pytest.raises(UsageError, match="already has a file called"):
        bundle_package(tiny_bundle, path)


def test_settings_alone_are_sent_to_a_deployed_bundle(
    phone: StartPhone, tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    device = device_of(phone())
    path = tmp_path / "chosen.json"
    write_settings(path, FILE)
    assert device.deploy(tiny_bundle).settings is None
    sent = device.deploy(tiny_bundle, settings=path)
    assert (sent.files_sent, sent.bytes_sent) == (1, path.stat().st_size)
