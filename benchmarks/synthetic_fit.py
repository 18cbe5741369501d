# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.synthetic_fit MODEL``: synthetic traces against published measurements.

The published caches are plain ones, with exact routing.
Each model is fitted to one row. The other rows are looked at afterwards and change nothing. No row
is of a cache-conditional method.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from moe_mobile.routing.simulation import simulate
from moe_mobile.routing.synthetic import MODELS, SyntheticModel, synthetic_logits

STEP = 0.001
"""What is fitted is a multiple of it."""
SEQUENCES = 4
"""So many runs of a row, of different texts."""


@dataclass(frozen=True)
class Row:
    """A published measurement: so many of the decoded tokens' slots miss.

    Attributes:
        source: where it was published, and how.
        misses: share of the slots.
        lifetime: tokens from an expert's load to its eviction, if that was published.
        capacity: of the cache, in experts per layer, which need not be whole.
        top_k: None: the model's.
        prompt, decoded: tokens of a run. The prompt fills the cache.
    """

    source: str
    misses: float
    capacity: float
    prompt: int
    decoded: int
    lifetime: float | None = None
    pool: str = "layer"
    eviction: str = "lru"
    top_k: int | None = None


@dataclass(frozen=True)
class Measured:
    """As in :class:`Row`; no lifetime if nothing was evicted."""

    misses: float
    lifetime: float | None


# BigMoeOnEdge, docs/bench-data/2026-07-12 (Qwen3-30B-A3B-Q4_K_M, OnePlus 15R): without a cache
# 268992 MiB were read for 256 tokens of 48 layers x 8 experts, so an expert has 2.736 MiB on
# average. The prompt had 34 tokens.
_MIB = 268992 / (256 * 48 * 8)
_PROMPT, _DECODED = 34, 256
# docs/bench-data/2026-07-15-route-trace, replayed in 2026-07-20-cache-replay: top-6, and hits are
# of decoding only. There the text is another one.
_REPLAY = Row("", 0, 0, prompt=28, decoded=128, top_k=6)


def _replay(mib: int, hits: float, eviction: str = "lru", pool: str = "global") -> Row:
    return dataclasses.replace(
        _REPLAY,
        source=f"top-6, {mib} MiB, {eviction}, pool {pool}: {hits:.1%} hits in a replay",
        misses=1 - hits,
        capacity=mib / _MIB / 48,
        eviction=eviction,
        pool=pool,
    )


ROWS = {
    "Qwen1.5-MoE-A2.7B": (
        # Misses per token and layer x lifetime = cached experts (Little's law): 0.35 x 4 x 26 is
        # 36.4. The size was not stated in what we could read.
        Row(
            "arXiv 2412.00099: LRU misses 35 %, lifetime 26 tokens",
            misses=0.35,
            lifetime=26,
            capacity=36,
            prompt=64,
            decoded=512,
        ),
    ),
    "Qwen3-30B-A3B": (
        Row(
            "4000 MiB: 57509.4 of 268992 MiB read, 76 % hits with the prompt",
            misses=57509.4 / 268992,
            capacity=4000 / _MIB / 48,
            prompt=_PROMPT,
            decoded=_DECODED,
            pool="global",
        ),
        Row(
            "2000 MiB: 122977.5 of 268992 MiB read, 53 % hits with the prompt",
            misses=122977.5 / 268992,
            capacity=2000 / _MIB / 48,
            prompt=_PROMPT,
            decoded=_DECODED,
            pool="global",
        ),
        _replay(4000, 0.803),
        _replay(4000, 0.927, "belady"),
        _replay(4000, 0.797, pool="layer"),
        _replay(3000, 0.706),
        _replay(3000, 0.878, "belady"),
        _replay(3000, 0.711, pool="layer"),
    ),
}
"""By model; the first is the one that the model is fitted to."""


def measure(model: SyntheticModel, row: Row, seed: int = 0, sequences: int = SEQUENCES) -> Measured:
    """The row on the model's trace; between whole capacities on a straight line."""
    layers, experts, top_k, _ = model.shape()
    lengths = [row.prompt + row.decoded] * sequences
    logits = synthetic_logits(layers, experts, lengths, model.persistence, seed)
    least = math.floor(row.capacity)
    share = row.capacity - least
    found = [
        simulate(
            logits,
            row.top_k or top_k,
            capacity,
            "exact",
            row.eviction,
            pool=row.pool,
            sequences=lengths,
            prompt_tokens=row.prompt,
            initial_cache="prompt",
        )
        for capacity in ([least, least + 1] if share > 0 else [least])
    ]
    low, high = found[0], found[-1]
    lifetime = low.mean_lifetime
    if lifetime is not None and high.mean_lifetime is not None:
        lifetime += share * (high.mean_lifetime - lifetime)
    return Measured(1 - low.hit_rate + share * (low.hit_rate - high.hit_rate), lifetime)


def fit(model: SyntheticModel) -> SyntheticModel:
    """With the least persistence with which the first row misses no more than published.

    More of the logits lasting, fewer slots miss. The trace's seed is 0.
    """
    row = ROWS[model.name][0]
    low, high = 0, round(1 / STEP)
    while low < high:
        middle = (low + high) // 2
        tried = dataclasses.replace(model, persistence=round(middle * STEP, 3))
        if measure(tried, row).misses > row.misses:
            low = middle + 1
        else:
            high = middle
    return dataclasses.replace(model, persistence=round(low * STEP, 3))


def report(model: SyntheticModel) -> Iterator[str]:
    """Lines of text: the fit, and all rows with it."""
    fitted = fit(model)
    yield f"{fitted.name}: persistence {fitted.persistence} (committed: {model.persistence})"
    for number, row in enumerate(ROWS[model.name]):
        got = measure(fitted, row)
        yield ("fitted to" if number == 0 else "not fitted") + f": {row.source}"
        line = f"    misses {got.misses:.1%}, published {row.misses:.1%}"
        if row.lifetime is not None and got.lifetime is not None:
            line += f"; lifetime {got.lifetime:.1f} tokens, published {row.lifetime:g}"
        yield line


def main() -> int:
    """Fit the model to its published row, and print all its rows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic_fit", description="Fit a synthetic model again."
    )
    parser.add_argument("model", choices=list(MODELS))
    for line in report(MODELS[parser.parse_args().model]):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
