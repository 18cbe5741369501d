# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One flipped bit anywhere gives a typed error, or exactly the output of the intact bundle."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.hostile.conftest import Reference
from tests.hostile.file_cases import flip
from tests.hostile.support import CarefulRunner

FLIPS_PER_SEED = 40


@pytest.mark.parametrize("seed", range(5))
def test_random_flips(
    seed: int, reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    bundle = reference.copy(tmp_path / "bundle")
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    noticed = 0
    for _ in range(FLIPS_PER_SEED):
        path = draw.choice(files)  # not by length: small files matter as much
        intact = path.read_bytes()
        at, bit = draw.randrange(len(intact)), draw.randrange(8)
        flip(path, at, bit)
        what = f"bit {bit} of byte {at} of {path.relative_to(bundle)}"
        outcome = engine.score(bundle)
        if outcome.error is None:
            assert outcome.result == reference.scores, what
        else:
            noticed += 1
            assert str(bundle) in str(outcome.error.file), (what, outcome)
            assert outcome.error.code in {"bundle_invalid", "bundle_corrupt", "unsupported"}, what
        # Verifying finds what running does not read: all except padding of the packed store.
        verified = engine.run("verify", bundle=str(bundle))
        if path.suffix != ".packed":
            assert verified.error is not None, what
            assert verified.error.code in {"bundle_invalid", "bundle_corrupt", "unsupported"}, what
        # Opening may have made a damaged store again: its bytes are the same as before.
        path.write_bytes(intact)
    assert noticed > FLIPS_PER_SEED // 4
