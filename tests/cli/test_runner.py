# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The runner client against processes that behave, misbehave and die."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

import pytest

from moe_mobile import errors
from moe_mobile.runner import Runner, find_runner

MakeRunner = Callable[[str], pathlib.Path]


@pytest.fixture
def make_runner(tmp_path: pathlib.Path) -> MakeRunner:
    """Write a Python program that answers requests; `body` handles one parsed `request`."""

    def make(body: str) -> pathlib.Path:
        path = tmp_path / "moe_runner"
        path.write_text(
            f"#!{sys.executable}\n"
            "import json, os, signal, sys, time\n"
            "def send(**event):\n"
            "    print(json.dumps(event), flush=True)\n"
            "for line in sys.stdin:\n"
            "    request = json.loads(line)\n"
            "    id = request['id']\n" + textwrap.indent(textwrap.dedent(body), "    ")
        )
        path.chmod(0o755)
        return path

    return make


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_exit_code_is_that_of_the_first_error(tmp_path: pathlib.Path) -> None:
    requests = [
        {"command": "verify", "bundle": str(tmp_path / "nope")},
        {"command": "nonsense"},
        [],
    ]
    result = subprocess.run(
        [find_runner()],
        input="".join(json.dumps(request) + "\n" for request in requests),
        stdout=subprocess.PIPE,
        text=True,
    )
    told = [json.loads(line)["error"] for line in result.stdout.splitlines()]
    assert [error["code"] for error in told] == ["bundle_invalid", "usage", "usage"]
    assert [error["file"] for error in told] == [str(tmp_path / "nope"), "", ""]
    assert [error["setting"] for error in told] == ["", "command", ""]
    assert result.returncode == 4
    empty = subprocess.run([find_runner()], input="", stdout=subprocess.PIPE, text=True)
    assert (empty.returncode, empty.stdout) == (0, "")


def test_digest_gives_the_hashes_of_files(tmp_path: pathlib.Path) -> None:
    contents = [b"", b"abc", bytes(range(256)) * 1000]
    paths = [tmp_path / f"{i} file" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    with Runner() as runner:
        answer = runner.request("digest", paths=[str(path) for path in paths], sync=True)
        assert answer["files"] == [
            {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for content in contents
        ]
        with pytest.raises(errors.IoError) as caught:
            runner.request("digest", paths=[str(tmp_path / "none")])
        assert caught.value.file == str(tmp_path / "none")
        with pytest.raises(errors.UsageError, match="array of strings"):
            runner.request("digest", paths=[3])


def test_a_misspelt_member_is_refused() -> None:
    with Runner() as runner:
        with pytest.raises(errors.UsageError, match="does not take this member") as caught:
            runner.request("generate", token_ids=[5], max_tokens=3)
        assert caught.value.setting == "max_tokens"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_stdout_ends_the_runner_with_an_error() -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [find_runner()], input=b'{"command": "info"}\n', stdout=full, timeout=1200
        )
    assert result.returncode == errors.IoError.exit_code


def test_an_attached_runner_ends_with_its_input(tmp_path: pathlib.Path) -> None:
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2 << 40)  # a hole that takes half an hour to hash
    request = json.dumps({"command": "digest", "paths": [str(tmp_path / "large")]}) + "\n"
    command = [str(find_runner()), "--attached"]
    ended = subprocess.run(command, input=request.encode(), capture_output=True, timeout=1200)
    assert ended.returncode == 130
    # The request that it was sent, and finished, is not the reason.
    done = json.dumps({"command": "digest", "paths": []}) + "\n"
    with Runner() as runner:
        assert runner.request("digest", paths=[]) == {"files": []}
    assert subprocess.run(command[:1], input=done.encode(), capture_output=True).returncode == 0
    assert subprocess.run([find_runner(), "--help"], capture_output=True).returncode == 2


def test_answers_stay_whole_and_in_turn() -> None:
    with Runner() as runner:
        for _ in range(1000):
            assert runner.request("digest", paths=[]) == {"files": []}


@pytest.mark.parametrize("iterations", [0, 1_000_001, 2**32 - 1])
def test_time_program_measures_a_sane_number_of_times(iterations: int) -> None:
    with Runner() as runner:
        with pytest.raises(errors.UsageError, match="1 to 1000000") as caught:
            runner.request("time_program", path="none", iterations=iterations)
        assert (caught.value.file, caught.value.setting) == (None, "iterations")


def test_results_progress_and_tokens(make_runner: MakeRunner) -> None:
    binary = make_runner(
        """
        send(id=id, event="progress", stage="load", done=1, total=2)
        send(id=id, event="token", token=17)
        send(id=id, event="result", got=request)
        """
    )
    progress: list[tuple[str, int, int]] = []
    tokens: list[int] = []
    with Runner(binary) as runner:
        first = runner.request(
            "ask",
            progress=lambda *step: progress.append(step),
            on_token=tokens.append,
            bundle="b",
            packed_dir=None,
        )
        second = runner.request("tell")
    assert first == {"got": {"id": 1, "command": "ask", "bundle": "b"}}
    assert second == {"got": {"id": 2, "command": "tell"}}
    assert progress == [("load", 1, 2)]
    assert tokens == [17]
    assert not _alive(runner.pid)


def test_errors_keep_their_type_and_the_process_goes_on(make_runner: MakeRunner) -> None:
    binary = make_runner(
        """
        if request["command"] == "ask":
            send(id=id, event="error", error={"code": "budget", "file": "/b", "cause": "too small",
                                              "remedy": "--cache 90%"})
        else:
            send(id=id, event="result", ok=True)
        """
    )
    with Runner(binary) as runner:
        with pytest.raises(errors.BudgetError) as caught:
            runner.request("ask")
        assert (caught.value.file, caught.value.cause, caught.value.remedy) == (
            "/b",
            "too small",
            "--cache 90%",
        )
        assert caught.value.exit_code == 9
        assert runner.request("tell") == {"ok": True}


def test_an_unknown_error_code_is_a_runtime_error(make_runner: MakeRunner) -> None:
    binary = make_runner('send(id=id, event="error", error={"code": "new", "cause": "c"})')
    with Runner(binary) as runner, pytest.raises(errors.RuntimeFailedError, match="c"):
        runner.request("ask")


def test_a_crash_names_the_signal_and_the_last_words(make_runner: MakeRunner) -> None:
    binary = make_runner(
        """
        print("slot 3 is gone", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
        """
    )
    with Runner(binary) as runner:
        with pytest.raises(errors.RuntimeFailedError) as caught:
            runner.request("ask")
        assert "killed by SIGSEGV" in caught.value.cause
        assert "slot 3 is gone" in caught.value.cause
        assert caught.value.file == str(binary)
        # The next request does not hang.
        with pytest.raises(errors.RuntimeFailedError):
            runner.request("tell")


def test_a_kill_hints_at_memory(make_runner: MakeRunner) -> None:
    binary = make_runner("os.kill(os.getpid(), signal.SIGKILL)")
    with Runner(binary) as runner, pytest.raises(errors.KilledError) as caught:
        runner.request("ask")
    assert "SIGKILL" in caught.value.cause
    assert caught.value.remedy is not None
    assert "memory" in caught.value.remedy


def test_ctrl_c_in_the_runner_is_not_a_failure(make_runner: MakeRunner) -> None:
    binary = make_runner(
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\nos.kill(os.getpid(), signal.SIGINT)"
    )
    with Runner(binary) as runner, pytest.raises(errors.CancelledError):
        runner.request("ask")


def test_an_early_exit_gives_its_code(make_runner: MakeRunner) -> None:
    binary = make_runner("sys.exit(127)")
    with Runner(binary) as runner, pytest.raises(errors.RuntimeFailedError, match="exit code 127"):
        runner.request("ask")


@pytest.mark.parametrize(
    "answer",
    [
        'print("hello", flush=True)',
        'print("[1]", flush=True)',
        'send(id=id + 1, event="result")',
        'send(event="result")',
    ],
)
def test_protocol_violations_are_reported_and_end_the_runner(
    make_runner: MakeRunner, answer: str
) -> None:
    with Runner(make_runner(answer)) as runner:
        with pytest.raises(errors.RuntimeFailedError, match="broke its protocol"):
            runner.request("ask")
        assert not _alive(runner.pid)


@pytest.mark.parametrize(
    "error",
    ["", "'text'", "[]", "{'code': ['io']}", "{'code': 'io', 'cause': {}}", "{'file': []}",
     "{'remedy': 3}", "{'setting': False}"],
)  # fmt: skip
def test_errors_are_errors(make_runner: MakeRunner, error: str) -> None:
    answer = f"send(id=id, event='error'{', error=' if error else ''}{error})"
    with (
        Runner(make_runner(answer)) as runner,
        pytest.raises(errors.RuntimeFailedError, match="broke its protocol"),
    ):
        runner.request("ask")


@pytest.mark.parametrize(
    "event",
    ["'progress', stage='load', done=1e999, total=2", "'progress', stage='load', done=[], total=2",
     "'progress', stage=3, done=1, total=2", "'progress', stage='load', done=-1, total=2",
     "'progress', stage='load', done=10**400, total=2", "'token'", "'token', token=-1",
     "'token', token=2**32", "'token', token=True", "'plan', plan=[]", "'plan', plan={'slots': 3}"],
)  # fmt: skip
def test_events_before_the_result_are_checked(make_runner: MakeRunner, event: str) -> None:
    with (
        Runner(make_runner(f"send(id=id, event={event})")) as runner,
        pytest.raises(errors.RuntimeFailedError, match="broke its protocol"),
    ):
        runner.request("ask", planned=lambda plan: None)


def test_a_line_cut_short_is_not_an_answer(make_runner: MakeRunner) -> None:
    binary = make_runner(
        """
        sys.stdout.write('{"id": 1, "event": "result"}')
        sys.stdout.flush()
        os._exit(3)
        """
    )
    with Runner(binary) as runner, pytest.raises(errors.RuntimeFailedError, match="exit code 3"):
        runner.request("ask")


def test_an_exception_in_a_callback_ends_the_process(make_runner: MakeRunner) -> None:
    binary = make_runner(
        """
        send(id=id, event="progress", stage="load", done=0, total=1)
        time.sleep(60)
        """
    )

    def stop(*step: object) -> None:
        raise KeyboardInterrupt

    runner = Runner(binary)
    with pytest.raises(KeyboardInterrupt):
        runner.request("ask", progress=stop)
    assert not _alive(runner.pid)


def test_leaving_the_block_by_an_error_does_not_wait(make_runner: MakeRunner) -> None:
    binary = make_runner('send(id=id, event="result")\ntime.sleep(1000)')
    began = time.monotonic()
    with contextlib.suppress(ValueError), Runner(binary) as runner:
        runner.request("ask")
        raise ValueError
    assert time.monotonic() - began < 1200
    assert not _alive(runner.pid)


def test_the_process_ends_with_the_interpreter(make_runner: MakeRunner) -> None:
    binary = make_runner('send(id=id, event="result")\ntime.sleep(60)')
    program = (
        "import sys; from moe_mobile.runner import Runner\n"
        f"r = Runner({str(binary)!r}); r.request('ask'); print(r.pid)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=1200
    )
    assert not _alive(int(result.stdout))


def test_a_missing_binary_is_named_with_a_remedy(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_MOBILE_RUNNER", str(tmp_path / "none"))
    with pytest.raises(errors.RuntimeFailedError) as caught:
        find_runner()
    assert caught.value.file == str(tmp_path / "none")
    assert "MOE_MOBILE_RUNNER" in str(caught.value)


def test_a_binary_that_cannot_run_is_reported(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "moe_runner"
    path.write_bytes(b"\x7fELF, for another machine")
    path.chmod(0o755)
    with pytest.raises(errors.RuntimeFailedError, match="cannot be started"):
        Runner(path)
