# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A connection that breaks once costs little, wherever it breaks, and however small the bundle."""

from __future__ import annotations

import hashlib
import pathlib
import random
from collections.abc import Callable

from moe_mobile.device.adb import AdbDevice
from moe_mobile.device.deploy.inventory import phone_root
from moe_mobile.device.deploy.package import Package, Wanted
from moe_mobile.device.select import open_device
from moe_mobile.virtual_phone import VirtualPhone
from tests.phones import StartPhone

KIB = 1 << 10
# The files of the demo model, 8 MB.
DEMO = [1 << 20] * 6 + [800 * KIB, 440 * KIB, 260 * KIB, 38 * KIB, 961, 184] + [92 * KIB] * 6


def package_of(lengths: list[int], folder: pathlib.Path) -> Package:
    chance = random.Random(7)
    wanted = []
    for number, length in enumerate(lengths):
        data, path = chance.randbytes(length), folder / f"{number:02}.bin"
        path.write_bytes(data)
        wanted.append(Wanted(path.name, path, length, hashlib.sha256(data).hexdigest()))
    return Package(room="bundles", id="0123456789abcdef", files=tuple(wanted))


def cost_of_cuts(phone: VirtualPhone, size: int, deploy: Callable[[], object]) -> list[float]:
    """Bytes on the wire, as a share of the bundle's, of deployments that are cut once."""
    shares = []
    for tenth in range(1, 10):
        before = phone.traffic()[0]
        # Inside a packet, wherever that ends.
        phone.misbehave(drop_after_received=min(size * tenth // 10 + 7919 * tenth, size * 19 // 20))
        deploy()
        shares.append((phone.traffic()[0] - before) / size)
        open_device(phone.serial).shell(f"rm -rf {phone_root()}/bundles/*")
    return shares


def test_a_cut_costs_a_tenth_of_a_small_bundle_at_most(
    phone: StartPhone, tmp_path: pathlib.Path
) -> None:
    one = phone()
    device = open_device(one.serial)
    assert isinstance(device, AdbDevice)
    package, deployer = package_of(DEMO, tmp_path), device._deployer

    def deploy() -> None:
        deployer.deploy(package, deployer.inventory(), device._sha256sum)

    shares = cost_of_cuts(one, package.bytes, deploy)
    assert 1 < min(shares) <= max(shares) <= 1.1, shares


def test_a_cut_costs_a_tenth_of_a_tiny_bundle_at_most(
    phone: StartPhone, tiny_bundle: pathlib.Path
) -> None:
    one = phone()
    device = open_device(one.serial)
    assert isinstance(device, AdbDevice)
    size = device.deploy(tiny_bundle).bytes  # brings the engine
    device.shell(f"rm -rf {phone_root()}/bundles/*")
    shares = cost_of_cuts(one, size, lambda: device.deploy(tiny_bundle))
    assert 1 < min(shares) <= max(shares) <= 1.1, (size, shares)
    # The engine, which hashes, ended with the connection: that says nothing about its files.
    assert any(path.startswith("runtime/") for path in device._deployer.inventory().vouched)
