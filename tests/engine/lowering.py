# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Lowers each program shape once per test run: it takes seconds.

Programs are made by substitution, heads included, which tests/export proves to be byte-identical to
lowering them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import pytest
import torch

from moe_mobile.export import exporter
from moe_mobile.export.shapes import ProgramShape
from moe_mobile.export.template import Programs


@cache
def _programs(shape: ProgramShape) -> Programs:
    return Programs(shape)


def _lower(shape: ProgramShape, weights: Mapping[str, torch.Tensor]) -> bytes:
    return bytes(_programs(shape).make(weights))


@contextmanager
def shared_templates() -> Iterator[None]:
    """Inside, exports take their templates from one table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "Programs", _programs)
        patch.setattr(exporter, "lower", _lower)
        yield
