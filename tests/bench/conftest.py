# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a scripted runner."""

from __future__ import annotations

import pathlib

import pytest

from moe_mobile.bench.driver import BundleFacts
from moe_mobile.bench.row import BenchTest, Row
from moe_mobile.device.local import LocalDevice
from tests.bench.scripted import MIB, Scripted, row_of


@pytest.fixture
def facts(tmp_path: pathlib.Path) -> BundleFacts:
    return BundleFacts(
        tmp_path, "qwen3_moe 8da4w", 11 * MIB, 8_490_000, 256, 1024, "XNNPACK", "ab" * 32
    )


@pytest.fixture
def device(tmp_path: pathlib.Path) -> LocalDevice:
    return Scripted(tmp_path)


@pytest.fixture
def results(facts: BundleFacts, device: LocalDevice) -> list[Row]:
    tests = [BenchTest(8, 0), BenchTest(0, 2)]
    return [row_of(device, facts, test) for test in tests]
