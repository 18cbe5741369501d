# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A connection to the phone that is as slow as a cable or a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Link"]

# So much may pass at once, in seconds of the link's time. It is also how long the link remembers
# that it was idle, and so makes up for sleeping too long.
_BURST_S = 0.01
# Less than this is not waited for, so that a fast link does not sleep for every piece.
_SHORTEST_S = 0.002


class Link:
    """Lets so many bytes a second pass in each direction, on all connections together.

    Any thread may use it. ``now`` and ``sleep``: a clock.
    """

    def __init__(
        self,
        bytes_per_second: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._piece = max(1, int(bytes_per_second * _BURST_S))
        self._now, self._sleep = now, sleep
        self._lock = threading.Lock()
        # When what passed so far will have passed, by direction.
        self._busy_until = [0.0, 0.0]

    def wait(self, direction: int) -> int:
        """Wait until the link is free; the bytes that may pass then."""
        ahead = self._busy_until[direction] - self._now()
        if ahead > _SHORTEST_S:
            self._sleep(ahead)
        return self._piece

    def passed(self, direction: int, count: int) -> None:
        """Have the link busy for as long as it takes so many bytes to pass."""
        with self._lock:
            begin = max(self._busy_until[direction], self._now() - _BURST_S)
            self._busy_until[direction] = begin + count / self._rate
