# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Work on several items at once: a thread for each, and no further threads within.

Threads are enough: PyTorch, hashlib and reads let go of Python's lock while they work. PyTorch's
own threads would be many for each operation, and wait for each other: where other processes have
the cores, an operation of a millisecond then takes as long as the system lets them wait.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

from moe_mobile.base.cores import cores
from moe_mobile.export.quantization import packed_bytes
from moe_mobile.export.shapes import ProgramShape

Item = TypeVar("Item")
Made = TypeVar("Made")

_WAITING = 2
"""Made items that may wait for the consumer, more than there are workers."""
_MEMORY_BYTES = 2 << 30
"""For all workers together."""


def workers_for(shape: ProgramShape) -> int:
    """How many programs of ``shape`` are made at once: one on each core that this process may use,
    as long as their parameters and constants stay small together."""
    parameters = shape.parameters()
    matrix = max(4 * math.prod(p.dims) for p in parameters)
    constants = sum(packed_bytes(p.dims, p.encoding) for p in parameters)
    # A parameter is read, in its stored type and as float32, and then packed. As many programs
    # are being made as wait for the consumer, or fewer.
    return max(1, min(cores(), _MEMORY_BYTES // (2 * matrix + 2 * constants)))


def in_order(
    make: Callable[[Item], Made], items: Iterable[Item], workers: int
) -> Generator[Made, None, None]:
    """``make`` of each item, in the items' order.

    Up to ``workers`` are made at once, each in a thread of its own. So many and two more are begun
    before the consumer has the first of them. Raises what ``make`` raised.
    """
    rest = iter(items)
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="export") as pool:
        try:
            while True:
                for item in islice(rest, workers + _WAITING - len(pending)):
                    pending.append(pool.submit(make, item))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Operations of PyTorch run in the thread that calls them, also in threads begun inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
