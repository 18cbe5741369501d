# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""All tests of the export run on tiny models; see tests/bundles.py for the fixtures."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def tiny_models(lowered_once: None) -> None:
    """What keeps exports of tiny models short."""
