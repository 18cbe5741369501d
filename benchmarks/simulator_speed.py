# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast the simulator is: ``python -m benchmarks.simulator_speed``.

Token-layers per second of one core's time, the best of three runs on logits that wander as those
of a real sequence do (each token keeps most of the one before). Nothing about real hit rates
follows from such logits.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from moe_mobile.cli.errors import report
from moe_mobile.errors import MoeMobileError
from moe_mobile.routing import simulate

CASES = (
    ("cache-prior:0.2,J=2", "lru"),
    ("cache-prior:0.2,J=2", "lfu"),
    ("cache-prior:0.2,J=2+drop-cold:0.75", "lru"),
    ("max-rank:12,J=2", "lru"),
    ("cumulative:0.8,J=2", "lru"),
    ("exact", "lru"),
    ("exact", "lfu"),
    ("exact", "belady"),
)
LAYERS = 16
REPEATS = 3


def main() -> int:
    """Measure and print a table; exit code 2 if the arguments make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulator_speed",
        description="Measure the simulator's speed.",
    )
    parser.add_argument("--tokens", type=int, default=4000, help=f"of {LAYERS} layers each")
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--capacity", type=int, default=32, help="experts per layer")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    shape = (max(arguments.tokens, 0), LAYERS, max(arguments.experts, 0))
    logits = rng.standard_normal(shape, dtype=np.float32)
    for token in range(1, len(logits)):
        logits[token] = 0.9 * logits[token - 1] + 0.43 * logits[token]

    print(
        f"{arguments.experts} experts, top-{arguments.top_k}, {arguments.capacity} cached per layer"
    )
    print(f"{'routing':36} {'eviction':9} token-layers/s")
    try:
        for routing, eviction in CASES:
            best = float("inf")
            for _ in range(REPEATS):
                start = time.thread_time()
                simulate(logits, arguments.top_k, arguments.capacity, routing, eviction)
                best = min(best, time.thread_time() - start)
            print(f"{routing:36} {eviction:9} {logits.shape[0] * LAYERS / best:14,.0f}")
    except MoeMobileError as error:
        return report(error, as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
