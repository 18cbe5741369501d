# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders that a deployment leaves, or does not."""

from __future__ import annotations

import pathlib

import pytest

from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.package import bundle_package
from moe_mobile.errors import CancelledError
from tests.cli.program import ok
from tests.device.test_deploy import device_of, sh
from tests.phones import StartPhone


def test_an_empty_folder_is_pruned_too(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    ok("deploy", tiny_bundle)
    before = sh(one, f"cd {phone_root()} && ls bundles runtime")
    own = bundle_package(tiny_bundle).partial
    sh(one, f"cd {phone_root()} && mkdir {own} bundles/0123456789abcdef.partial runtime/0123")
    ok("deploy", tiny_bundle)
    ok("deploy", tiny_bundle, "--prune")
    assert sh(one, f"cd {phone_root()} && ls bundles runtime") == before


def test_hashing_alone_creates_no_folders(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    ok("deploy", tiny_bundle)
    device, package = device_of(one), bundle_package(tiny_bundle)
    sh(one, f"touch -d 2001-01-01T00:00:00 {phone_root()}/{package.folder}/config.json")

    def interrupted(path: str) -> str:
        assert path.endswith("config.json")
        raise CancelledError("stopped by the user")

    before = sh(one, f"ls {phone_root()}/bundles")
    with pytest.raises(CancelledError):
        device._deployer.deploy(package, device._deployer.inventory(), interrupted)
    assert sh(one, f"ls {phone_root()}/bundles") == before
    assert device.deploy(tiny_bundle).was_complete
