# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The runner's requests that are answered while another one runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_mobile import errors
from moe_mobile.runner import Runner, find_runner
from tests.bundles import DemoMaker

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def runner(demo_bundle: DemoMaker) -> Iterator[Runner]:
    with Runner() as opened:
        settings = {"cache": "50%", "threads": 1, "context": 1024}
        opened.request("open", bundle=str(demo_bundle()), settings=settings)
        yield opened


def test_cancel_stops_the_request_that_runs_and_the_runner_goes_on(runner: Runner) -> None:
    assert runner.cancel() == 0  # nothing runs
    seen: list[int] = []
    stopped: list[int] = []

    def cancel_after_three(token: int) -> None:
        seen.append(token)
        if len(seen) == 3:
            stopped.append(runner.cancel())

    with pytest.raises(errors.CancelledError):
        runner.request(
            "generate",
            on_token=cancel_after_three,
            token_ids=PROMPT,
            max_new_tokens=1000,
            ignore_eos=True,
        )
    assert stopped == [1]
    result = runner.request("generate", token_ids=PROMPT, max_new_tokens=5, ignore_eos=True)
    assert result["token_ids"][:3] == seen[:3]


@pytest.mark.parametrize(
    ("command", "members"),
    [
        ("score", {"token_ids": PROMPT * 250}),
        ("bench", {"n_prompt": 0, "n_gen": 1000, "repetitions": 100}),
        ("measure_misses", {"count": 1_000_000}),
    ],
)
def test_other_threads_cancel_everything_that_takes_long(
    runner: Runner, command: str, members: dict[str, Any]
) -> None:
    ended = threading.Event()
    cancelled: list[int] = []

    def cancel() -> None:
        while not ended.wait(0.05):
            cancelled.append(runner.cancel())

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(errors.CancelledError):
            runner.request(command, **members)
    finally:
        ended.set()
        thread.join()
    assert 1 in cancelled


def test_a_digest_is_cancelled_between_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with Runner() as runner:

        def cancel(stage: str, done: int, total: int, detail: str = "") -> None:
            if done == 1:
                runner.cancel()

        with pytest.raises(errors.CancelledError):
            runner.request("digest", paths=[str(tmp_path / "file")] * 100_000, progress=cancel)


def test_resize_and_residency_while_tokens_come(runner: Runner) -> None:
    expected = runner.request("generate", token_ids=PROMPT, max_new_tokens=40, ignore_eos=True)
    slots: list[int] = []

    def resize(token: int) -> None:
        slots.append(runner.resize(f"{20 + 2 * len(slots)}%")["slots"])
        shown = runner.residency()
        assert shown.states.shape == shown.variants.shape

    again = runner.request(
        "generate", on_token=resize, token_ids=PROMPT, max_new_tokens=40, ignore_eos=True
    )
    assert again["token_ids"] == expected["token_ids"]
    assert slots == sorted(slots)
    assert len(set(slots)) > 10
    assert runner.request("info")["plan"]["slots"] == slots[-1]
    assert runner.request("info")["settings"]["cache"] == "98%"


def test_wrong_requests_are_refused_with_their_reason(runner: Runner) -> None:
    before = runner.request("info")["plan"]
    for cache, kind in [("1KiB", errors.BudgetError), ("much", errors.UsageError)]:
        with pytest.raises(kind) as refused:
            runner.resize(cache)
        assert refused.value.setting == "cache"
    with pytest.raises(errors.UsageError, match="does not take this member"):
        runner.request("cancel", now=True)
    with pytest.raises(errors.UsageError, match="this member is missing"):
        runner.request("resize")
    assert runner.request("info")["plan"] == before
    with Runner() as closed:
        with pytest.raises(errors.UsageError, match="no bundle is open"):
            closed.residency()
        with pytest.raises(errors.UsageError, match="no bundle is open"):
            closed.resize("50%")
        assert closed.cancel() == 0


def test_cancel_stops_requests_that_wait_too_and_each_answer_has_its_id(
    tmp_path: Path,
) -> None:
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 200 << 20)
    digest = {"command": "digest", "paths": [str(tmp_path / "large")] * 1000}
    requests = [{"id": "a", **digest}, {"id": "b", **digest}, {"id": "c", "command": "cancel"}]
    ended = subprocess.run(
        [find_runner()],
        input="".join(json.dumps(request) + "\n" for request in requests),
        stdout=subprocess.PIPE,
        text=True,
        timeout=1200,
    )
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    answers = {
        event["id"]: event.get("error", {}).get("code")
        for event in events
        if event["event"] != "progress"
    }
    assert answers == {"a": "cancelled", "b": "cancelled", "c": None}
    assert {"id": "c", "event": "result", "cancelled": 2} in events
    assert ended.returncode == 130


def answering_pairs(tmp_path: Path, event: str = "{}") -> Path:
    """A program that answers requests once there are two, the later one first. ``event``: what it
    sends before the later one's answer, if it is not empty."""
    program = tmp_path / "moe_runner"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "requests = []\n"
        "for line in sys.stdin:\n"
        "    requests.append(json.loads(line))\n"
        "    if len(requests) == 2:\n"
        f"        event = {event}\n"
        "        if event:\n"
        "            print(json.dumps({'id': requests[1]['id'], **event}), flush=True)\n"
        "            sys.stdin.read()\n"
        "        for request in reversed(requests):\n"
        "            print(json.dumps({'id': request['id'], 'event': 'result',\n"
        "                              'name': request['name']}), flush=True)\n"
        "        requests = []\n"
    )
    program.chmod(0o755)
    return program


def test_a_request_that_cannot_be_sent_disturbs_no_other(tmp_path: Path) -> None:
    names: list[str] = []
    with Runner(answering_pairs(tmp_path)) as runner:
        thread = threading.Thread(
            target=lambda: names.append(runner.request("ask", name="a")["name"])
        )
        thread.start()
        with pytest.raises(errors.UsageError, match="invalid value b'25%'") as refused:
            runner.resize(b"25%")  # type: ignore[arg-type]
        assert refused.value.setting == "cache"
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        for wrong in (float("nan"), {(1, 2): 3}, deep):
            with pytest.raises(errors.UsageError, match="invalid value") as refused:
                runner.request("ask", name=wrong)
            assert refused.value.setting == "name"
        assert runner.request("ask", name="b")["name"] == "b"
        thread.join(300)
    assert names == ["a"]


def test_a_runner_that_was_killed_here_did_not_run_out_of_memory(
    tmp_path: Path,
) -> None:
    event = "{'event': 'progress', 'stage': 'load', 'done': 0, 'total': 1}"
    caught: list[BaseException] = []

    def fail(stage: str, done: int, total: int, detail: str = "") -> None:
        raise LookupError

    with Runner(answering_pairs(tmp_path, event)) as runner:

        def ask() -> None:
            try:
                runner.request("ask", name="a")
            except errors.MoeMobileError as error:
                caught.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while 1 not in runner._waiting:
            thread.join(0.01)
        with pytest.raises(LookupError):
            runner.request("ask", name="b", progress=fail)
        thread.join(300)
    (error,) = caught
    assert isinstance(error, errors.RuntimeFailedError)
    assert "memory" not in str(error)


def test_two_threads_get_their_own_answers(tmp_path: Path) -> None:
    """Also if the other thread read them."""
    program = answering_pairs(tmp_path)
    with Runner(program) as runner:
        for _ in range(50):
            names: dict[str, str] = {}

            def ask(name: str, names: dict[str, str] = names) -> None:
                names[name] = runner.request("ask", name=name)["name"]

            threads = [threading.Thread(target=ask, args=(name,)) for name in ("a", "b")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(300)
            assert names == {"a": "a", "b": "b"}
