# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The whole engine under ThreadSanitizer, while other threads cancel, resize and look at it.

Its own code is instrumented, ExecuTorch and XNNPACK are not. The first finding ends the runner.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_mobile import Engine
from moe_mobile.errors import CancelledError
from moe_mobile.runner import Launch, Runner
from tests.conftest import NativeBuild

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12]
ROUNDS = 6


@pytest.fixture
def runner(native_build: Callable[[str], NativeBuild]) -> Iterator[Runner]:
    build = native_build("thread")
    command = build.command(build.program("moe_runner"), "--attached")
    options = build.environment()["TSAN_OPTIONS"]
    with Runner(
        Launch(
            ["env", f"TSAN_OPTIONS={options}", *command],
            "this machine",
            lambda _: math.inf,
            lambda *_: None,
        )
    ) as opened:
        yield opened


@pytest.mark.parametrize("residency", ["slots", "programs"])
def test_other_threads_disturb_nothing(runner: Runner, demo: Path, residency: str) -> None:
    # Packed by the ordinary engine: ExecuTorch, which is not instrumented, frees its cache of
    # weights in another thread than last used it, and the counts that order this are not seen.
    Engine(demo, threads=1).close()
    settings = {"cache": "50%", "residency": residency, "threads": 2, "context": 256}
    runner.request("open", bundle=str(demo), settings=settings)
    generation: dict[str, Any] = {"token_ids": PROMPT, "max_new_tokens": 40, "ignore_eos": True}
    expected = runner.request("generate", **generation)["token_ids"]
    seen, done = threading.Semaphore(0), threading.Event()
    wrong: list[BaseException] = []

    def disturb(act: Callable[[int], object]) -> None:
        try:
            for turn in itertools.count():
                seen.acquire()
                if done.is_set():
                    return
                act(turn)
        except BaseException as error:
            wrong.append(error)

    acts: list[Callable[[int], object]] = [
        lambda turn: runner.resize(f"{(40, 60, 100)[turn % 3]}%"),
        lambda turn: runner.residency(),
        lambda turn: runner.cancel() if turn % 3 == 0 else runner.residency(),
    ]
    others = [threading.Thread(target=disturb, args=(act,)) for act in acts]
    for other in others:
        other.start()
    ended = 0
    try:
        while ended < ROUNDS:
            try:
                result = runner.request("generate", on_token=lambda _: seen.release(), **generation)
            except CancelledError:
                ended += 1
            else:
                assert result["token_ids"] == expected
    finally:
        done.set()
        seen.release(len(others))
        for other in others:
            other.join()
    assert wrong == []
    assert runner.request("generate", **generation)["token_ids"] == expected
