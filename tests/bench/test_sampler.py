# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The loop that samples a running engine."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from moe_mobile.bench import sampler as module
from moe_mobile.bench.sampler import Sampler
from moe_mobile.device.local import LocalDevice
from moe_mobile.errors import DeviceError


def test_stopping_waits_for_no_reading_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    parsing, release = threading.Event(), threading.Event()

    def endless(text: str, zones: object) -> dict[str, Any]:
        parsing.set()
        release.wait()
        return {}

    monkeypatch.setattr(module, "parse_sample", endless)
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(module, "_LAST_SECONDS", 0.5)
    sampler = Sampler(LocalDevice(), os.getpid(), {})
    try:
        assert parsing.wait(1200)
        assert sampler.stop(time.monotonic()) == []
        with pytest.raises(DeviceError, match="takes more than"):
            sampler.check()
    finally:
        release.set()
