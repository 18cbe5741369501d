# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Lowers a program with the same parameters once per process.

Lowering takes seconds and is deterministic: what is exported is the same as without this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch

from moe_mobile.export import lowering
from moe_mobile.export.shapes import ProgramShape

_KNOWN: dict[tuple[ProgramShape, bytes], bytes] = {}

# Not remembered: it takes as long as ever inside ``remembered_lowering`` too.
lower = lowering.lower


def _remembered(shape: ProgramShape, weights: Mapping[str, torch.Tensor]) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().data)
    key = (shape, digest.digest())
    if key not in _KNOWN:
        _KNOWN[key] = lower(shape, weights)
    return _KNOWN[key]


@contextmanager
def remembered_lowering() -> Iterator[None]:
    """Inside, exports of this process (and of what it forks) share what was lowered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "lower", _remembered)
        yield
