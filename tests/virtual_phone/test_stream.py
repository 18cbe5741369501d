# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Who hears that a client left, and until when."""

from __future__ import annotations

import functools
import threading
from typing import Any, cast

from moe_mobile.virtual_phone.stream import Stream


def make_stream() -> Stream:
    return Stream(cast(Any, None), 1, 2, 4096)


def test_a_close_is_reported_once_before_or_after_listening() -> None:
    for before in (True, False):
        stream = make_stream()
        heard: list[int] = []
        if before:
            stream.peer_closed()
        stream.on_close(functools.partial(heard.append, 1))
        if not before:
            stream.peer_closed()
        assert heard == [1]
        assert stream.closed


def test_a_removed_listener_is_not_called_later() -> None:
    stream = make_stream()
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        began.set()
        go_on.wait(1200)
        ended.set()

    stream.on_close(call)
    peer = threading.Thread(target=stream.peer_closed)
    peer.start()
    assert began.wait(1200)
    # In the middle of the call: what it uses may not be given up yet.
    threading.Timer(0.1, go_on.set).start()
    stream.on_close(None)
    assert ended.is_set()
    peer.join()
    stream.peer_closed()
