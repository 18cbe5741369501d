# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A connection to the phone that is as slow as a cable or a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# So much may pass at once, in seconds of the link's time. It is also how long the link remembers
# that it was idle, and so makes up for sleeping too long.
_BURST_S = 0.01
# Less than this is not waited for, so that a fast link does not sleep for every piece.
_SHORTEST_S = 0.002


class Link:
    """Lets so many bytes a second pass in each direction, on all connections together.

    Any thread may use it. ``piece``: the most bytes to ask for at once. ``now`` and ``sleep``: a
    clock.
    """

    def __init__(
        self,
        bytes_per_second: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.piece = max(1, int(bytes_per_second * _BURST_S))
        self._rate = bytes_per_second
        self._now, self._sleep = now, sleep
        self._lock = threading.Lock()
        # When all that was asked for so far will have passed, by direction.
        self._busy_until = [0.0, 0.0]

    def carry(self, direction: int, count: int) -> None:
        """Return once so many bytes have passed, behind all that was asked for earlier."""
        with self._lock:
            begin = max(self._busy_until[direction], self._now() - _BURST_S)
            passed = self._busy_until[direction] = begin + count / self._rate
        ahead = passed - self._now()
        if ahead > _SHORTEST_S:
            self._sleep(ahead)
