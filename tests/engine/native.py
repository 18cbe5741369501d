# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the public API does not show."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from moe_mobile import Engine
from tests.oracles.logits import Logits

GREEDY = '{"temperature": 0.0}'


def logits_after_prompt(engine: Engine, prompt: Sequence[int], count: int) -> Logits:
    """The logits [count, vocab] that greedy tokens after a prompt are taken from.

    The first row comes from the batch that computes the prompt, the others from decoding after it.
    """
    native = engine._engine
    assert native is not None
    generator = native.generate(list(prompt), count, GREEDY, True, None)
    rows = []
    while generator.next() is not None:
        rows.append(generator.logits)
    return np.stack(rows)


def same_bits(a: Logits | Sequence[Logits], b: Logits | Sequence[Logits]) -> bool:
    """Whether arrays are equal bit by bit: -0 differs from 0, and one NaN from another."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a.view(np.uint32), b.view(np.uint32))
    return all(same_bits(x, y) for x, y in zip(a, b, strict=True))


def rss_anon(pid: int) -> int:
    """Anonymous memory of a process in bytes, from the kernel."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "RssAnon:" in line)


@contextmanager
def peak_rss_anon(pid: int) -> Iterator[list[int]]:
    """One number: the most anonymous memory that a process was seen to have inside.

    Seen every millisecond or less often, so never more than there was. The kernel's own peak
    (VmHWM) has files that are mapped, too, and those come and go as others need memory.
    """
    peak, done = [rss_anon(pid)], threading.Event()

    def look() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], rss_anon(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak[0] = max(peak[0], rss_anon(pid))
