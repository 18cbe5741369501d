# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Two virtual phones at once, through a real adb server: what they compute is what we compute."""

from __future__ import annotations

import pathlib

import pytest

from moe_mobile.device.interface import Device
from moe_mobile.device.select import open_device
from moe_mobile.runner import Runner
from moe_mobile.runtime import build_runtime
from tests.bundles import BundleMaker
from tests.cli.program import ok, ok_json
from tests.phones import StartPhone

TOKENS = [5, 9, 2, 17, 5, 30, 1, 8, 12, 40, 3, 22]
# Log-probabilities in nats of float32 programs, whose sums are in different orders. With 8-bit
# activations a neighbouring step may change what is routed where: docs/findings/phones.md.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def arm64_engine() -> None:
    """Built once, and kept for the next run by its key."""
    build_runtime("linux-arm64")


def log_probabilities(place: Device, bundle: pathlib.Path, **settings: object) -> list[float]:
    folder = place.place(bundle)
    with place.runner() as runner:
        runner.request("open", bundle=folder, settings=settings)
        answer = runner.request("score", token_ids=TOKENS)
    return [float(value) for value in answer["log_probabilities"]]


def test_x86_64_gives_the_local_tokens(phone: StartPhone, tiny_bundle: pathlib.Path) -> None:
    one = phone()
    options = ("--token-ids", "5,9,2,17", "-n", 20, "--ignore-eos")
    there = ok_json("generate", tiny_bundle, "--device", one.serial, *options)
    here = ok_json("generate", tiny_bundle, *options)
    assert there["token_ids"] == here["token_ids"]
    assert (there["device"], here["device"]) == (one.serial, "local")
    info = ok_json("info", tiny_bundle, "--device", one.serial)
    assert info["direct_io"]
    assert info["device"] == one.serial


def test_arm64_is_the_same_at_every_budget_and_near_x86_64(
    phone: StartPhone, tiny_bundle: pathlib.Path, bundle: BundleMaker, arm64_engine: None
) -> None:
    intel, arm = open_device(phone().serial), open_device(phone(abi="arm64-v8a").serial)
    ok("deploy", tiny_bundle, "--all")
    assert arm.facts().abi == "arm64-v8a"
    runs = [
        log_probabilities(arm, tiny_bundle, cache=cache, residency=residency)
        for residency, cache in (
            ("slots", "50%"),
            ("slots", "75%"),
            ("slots", "100%"),
            ("programs", "50%"),
            ("resident", "100%"),
        )
    ]
    assert all(run == runs[0] for run in runs)
    exact = bundle("qwen3_moe", "fp32")
    reference = log_probabilities(intel, exact, cache="50%")
    found = log_probabilities(arm, exact, cache="50%")
    assert len(reference) == len(runs[0]) == len(TOKENS) - 1
    worst = max(abs(a - b) for a, b in zip(found, reference, strict=True))
    assert worst <= TOLERANCE, worst
    ok("verify", tiny_bundle, "--device", arm.serial)


def test_the_local_runner_is_the_same_interface(tiny_bundle: pathlib.Path) -> None:
    place = open_device(None)
    with place.runner(cpus=[0]) as runner:
        assert isinstance(runner, Runner)
        info = runner.request(
            "open", bundle=place.place(tiny_bundle), settings={"cache": "50%", "threads": 1}
        )
        assert info["pid"] == runner.pid
        status = place.shell(f"grep Cpus_allowed_list /proc/{runner.pid}/status").stdout
    assert status.split() == ["Cpus_allowed_list:", "0"]
