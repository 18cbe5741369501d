# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How much is sent at once, so that little is lost with a connection, and a stall shows soon."""

from __future__ import annotations

import threading

from moe_mobile.base import limits

_FIRST = 1 << 20
_LARGEST = 64 << 20
# A start of a shell on a device takes some hundredths of a second.
_PIECE_TAKES_S = 2.0
_FASTER = 8
_LANES = 3
_SMALL = 100 << 20
# Most of the time, streams of small pieces wait for their shells.
_LANES_OF_SMALL = 6
# What a connection that breaks may lose is a tenth of the package. Scripts take some of it: of a
# tiny package more, and the more pieces there are.
_LOST_SHARE = 17
_TINY = 4 << 20
_LOST_SHARE_OF_TINY = 40


class Pace:
    """Lengths of pieces, for all streams of one package of ``total`` bytes. Any thread may use it.

    They grow with the connection's speed, so that a piece takes seconds of the minute that it may.
    ``careful``: the connection broke before, and may soon break again: each try has to get on.

    Attributes:
        lanes: how many streams to use.
        ahead: whether to send before a shell has said that it is there. One that has just started
            loses what it was sent if the connection breaks. One that is there writes all that has
            arrived; what is lost is the packet on its way, which is no longer than a piece. So of
            a small package nothing is sent ahead, and its pieces are short.
    """

    def __init__(self, total: int, *, careful: bool) -> None:
        small = total < _SMALL
        self.ahead = not small and not careful
        self.lanes = _LANES_OF_SMALL if small else _LANES
        share = _LOST_SHARE_OF_TINY if total < _TINY else _LOST_SHARE
        self._most = total // share + 1 if small else _LARGEST
        self._size = min(limits.LEAST_PIECE if careful else _FIRST, self._most)
        self._lock = threading.Lock()

    def piece(self, left: int) -> int:
        """Bytes to send next, of a file of which so many are missing."""
        with self._lock:
            # Not a tiny piece for the end.
            return left if left <= self._size * 5 // 4 else self._size

    def took(self, size: int, seconds: float) -> None:
        """A piece of that length took so long."""
        fits = int(size * min(_FASTER, _PIECE_TAKES_S / max(seconds, 1e-6)))
        with self._lock:
            if fits > self._size or size >= self._size:
                least = min(limits.LEAST_PIECE, self._most)
                self._size = max(least, min(fits, self._most))
