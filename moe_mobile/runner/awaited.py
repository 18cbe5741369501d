# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A request to ``moe_runner`` that waits for its answer: what came, and what may still come."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Mapping
from typing import Any

from moe_mobile.base import limits
from moe_mobile.runner.answers import EVENTS, is_event, most_bytes, most_tokens

# CPU seconds in SILENCE_S from which on an engine computes. One that waits takes none.
_LEAST_WORK = 0.1
# A stage gets ahead by a part of so many at least, or any number could be dripped. An honest engine
# does so within the time of silence, or computes.
_SLOWEST = 1000


class Awaited:
    """Events of one request, checked as they come, so that no runner fills the memory or is waited
    for without end.

    Attributes:
        events: those that wait for the thread that they are for.
        most_bytes: the length that a line for it may have.
    """

    def __init__(self, message: Mapping[str, Any]) -> None:
        self.events: collections.deque[dict[str, Any]] = collections.deque()
        self.most_bytes = most_bytes(message)
        self._tokens_left = most_tokens(message)
        self._left = limits.EVENTS
        self._stages = 0
        self._step: tuple[object, object] = (None, None)
        self._done = 0
        self._work: float | None = None
        self._heard()

    @property
    def silent_s(self) -> float:
        """Seconds since it was last ahead."""
        return time.monotonic() - self._last

    def take(self, event: dict[str, Any]) -> str | None:
        """Keep an event for its thread; or what is wrong with it."""
        kind = event.get("event")
        if isinstance(kind, str) and kind in EVENTS:
            if not is_event(event):
                return f"got {str(event)[:200]}"
            if kind == "progress":
                event["total"] = max(1, event["total"])  # nobody divides by 0
            wrong = self._token() if kind == "token" else self._other(event)
        elif kind in ("result", "error"):
            wrong = None
            self._heard()
        else:
            wrong = self._other(event)
        if wrong is None:
            self.events.append(event)
        return wrong

    def must_look(self) -> bool:
        """Whether it has been silent for so long that the engine has to be looked at."""
        return time.monotonic() >= self._look_at

    def works(self, work: float | None) -> bool:
        """Whether an engine that has worked so much (CPU seconds) may go on in silence; None: it
        does not run. Infinity: it waits for the flash now."""
        if work is None or self.silent_s > limits.LONGEST_SILENCE_S:
            return False
        self._look_at = time.monotonic() + limits.SILENCE_S
        if math.isinf(work):
            return True
        before, self._work = self._work, work
        return before is None or work - before >= _LEAST_WORK

    def _token(self) -> str | None:
        self._tokens_left -= 1
        if self._tokens_left < 0:
            return "more tokens than were asked for"
        self._heard()
        return None

    def _other(self, event: dict[str, Any]) -> str | None:
        self._left -= 1
        if self._left < 0:
            return f"more than {limits.EVENTS} events before one answer"
        if event.get("event") != "progress":
            return None
        stage, done, total = (event[name] for name in ("stage", "done", "total"))
        if done > total:
            return f"progress beyond its end: {stage[:100]} {done} of {total}"
        if (stage, total) != self._step:
            self._stages += 1
            if self._stages > limits.STAGES:
                return f"more than {limits.STAGES} stages of progress before one answer"
            self._step, self._done = (stage, total), done
            self._heard()
        elif _SLOWEST * (done - self._done) >= total:
            self._done = done
            self._heard()
        return None

    def _heard(self) -> None:
        self._last = time.monotonic()
        self._look_at = self._last + limits.SILENCE_S
        self._work = None
