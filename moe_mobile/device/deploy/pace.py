# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How much of a file is sent before the device has to say that it has it."""

from __future__ import annotations

import threading

from moe_mobile.base import limits
from moe_mobile.device.shell_stream import MAX_FRAME

_FIRST = 256 << 10
_LARGEST = 64 << 20
# A start of a shell on a device takes some hundredths of a second.
_PIECE_TAKES_S = 2.0
_FASTER = 4
# A connection that breaks loses one packet at most: the part of it that had arrived. A packet is
# no longer than a piece, so that of a small package costs no larger share.
_LOST_SHARE = 20
_SMALLEST = 8 << 10


class Pace:
    """Lengths of pieces, for all streams of one package of ``total`` bytes. Any thread may use it.

    They grow with the connection's speed, so that a piece takes seconds of the minute that it may.
    """

    def __init__(self, total: int) -> None:
        small = total < _LOST_SHARE * MAX_FRAME
        self._most = max(_SMALLEST, total // _LOST_SHARE) if small else _LARGEST
        self._size = min(_FIRST, self._most)
        self._lock = threading.Lock()

    def piece(self, left: int) -> int:
        """Bytes to send next, of a file of which so many are missing."""
        with self._lock:
            return min(left, self._size)

    def took(self, size: int, seconds: float) -> None:
        """A piece of that length took so long."""
        fits = int(size * min(_FASTER, _PIECE_TAKES_S / max(seconds, 1e-6)))
        with self._lock:
            if fits > self._size or size == self._size:
                least = min(limits.LEAST_PIECE, self._most)
                self._size = max(least, min(fits, self._most))
