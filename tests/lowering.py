# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Lowers a program with the same parameters once per test run, in whichever process.

Lowering takes seconds and is deterministic: what is exported is the same as without this. So it is
if a head, which an export lowers as it is, is made from a template like other programs.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from moe_mobile.export import lowering
from moe_mobile.export.programs import HeadShape
from moe_mobile.export.shapes import ProgramShape
from moe_mobile.export.template import Programs, random_weights

# Not remembered: it takes as long as ever inside ``remembered_lowering`` too.
lower = lowering.lower


def _remembered_in(
    folder: Path,
) -> Callable[[ProgramShape, Mapping[str, torch.Tensor]], bytes]:
    # In memory too: processes forked in tests of failing disks read and write no file here.
    known: dict[str, bytes] = {}

    def made(shape: ProgramShape, weights: Mapping[str, torch.Tensor]) -> bytes:
        if isinstance(shape, HeadShape) and not _are_equal(weights, random_weights(shape)):
            return Programs(shape).make(weights)
        return lower(shape, weights)

    def remembered(shape: ProgramShape, weights: Mapping[str, torch.Tensor]) -> bytes:
        # A shape is a dataclass of plain values: its text tells it from every other.
        digest = hashlib.sha256(repr(shape).encode())
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().data)
        key = digest.hexdigest()
        if key not in known:
            known[key] = _made_once(folder / f"{key}.pte", lambda: made(shape, weights))
        return known[key]

    return remembered


def _are_equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def _made_once(file: Path, make: Callable[[], bytes]) -> bytes:
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_bytes(make())
            unfinished.rename(file)
    return file.read_bytes()


@contextmanager
def remembered_lowering(folder: Path) -> Iterator[None]:
    """Inside, exports of this process (and of what it forks) share what was lowered into
    ``folder`` with all that use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "lower", _remembered_in(folder))
        yield
