# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Forked processes do not have the threads of an engine: everything that waits for one hangs there.

So such a process leaves the engines that it inherits as they are, and opens none.
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from typing import Protocol

from moe_mobile.errors import UsageError


class Leavable(Protocol):
    """What a forked process inherits."""

    def _leave(self) -> None:
        """Never touches its native objects again."""


_open: weakref.WeakSet[Leavable] = weakref.WeakSet()
_forked = False


def leave_when_forked(engine: Leavable) -> None:
    """Processes that are forked while the engine lives leave it."""
    _watch()
    _open.add(engine)


def never_destroy(*natives: object) -> None:
    """Native objects that no longer go when nobody refers to them: that would wait for threads."""
    for native in natives:
        if native is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))


def refuse_forked() -> None:
    """Raises UsageError in a process that was forked after an engine had been opened."""
    if _forked:
        raise UsageError(
            "this process was forked from one that had opened an engine, and does not have its "
            "threads",
            remedy='Start processes with multiprocessing.get_context("spawn"), or fork before an '
            "engine is opened.",
        )


@functools.cache
def _watch() -> None:
    os.register_at_fork(after_in_child=_leave_all)


def _leave_all() -> None:
    from moe_mobile import _native

    global _forked
    _forked = True
    _native.expect_leaks()
    for engine in list(_open):
        engine._leave()
