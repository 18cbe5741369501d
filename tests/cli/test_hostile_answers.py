# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A runner with one wrong member in its answers: a typed error, or a usable figure."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pathlib
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mobile.bench.store import ResultFile
from moe_mobile.cli import cli
from moe_mobile.quality.file import QualityFile
from moe_mobile.runner import Runner, find_runner
from tests.cli.conftest import byte_tokenizer
from tests.cli.program import COMMAND

Path = tuple[str | int, ...]
Change = Callable[[bytes], bytes]

GONE = object()
# Written by hand: json.dumps would write it in another way.
TOO_LARGE = "@1e999"
VALUES = [
    GONE, None, True, 0, 1, -1, -(10**20), 10**400, 1.5, -0.5, 1e300, float("nan"), TOO_LARGE, "",
    "text", "\x1b]0;title\x07\x9b2J\r\u202e", "\ud800", [], [[]], [0, 0], {}, {"text": 1},
]  # fmt: skip


class _Lines:
    """A runner's output, every line of it changed."""

    def __init__(self, lines: Any, change: Change) -> None:
        self._lines, self._change = lines, change

    def read(self, most: int, seconds: float | None) -> bytes:
        line: bytes = self._lines.read(most, seconds)
        return self._change(line) if line else line

    def close(self) -> None:
        self._lines.close()


@contextlib.contextmanager
def _changed(change: Change) -> Iterator[None]:
    start = Runner.__init__

    def started(self: Runner, *arguments: Any, **named: Any) -> None:
        start(self, *arguments, **named)
        self._lines = _Lines(self._lines, change)  # type: ignore[assignment]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "__init__", started)
        patch.setattr("moe_mobile.cli.group._signals_interrupt", lambda: None)
        yield


def _run(change: Change, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `moe-mobile` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        _changed(change),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.getvalue(), err.getvalue()


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Of every member, and of the first and last element of each list."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _paths(member, (*path, name))
    if isinstance(value, list):
        for index in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from _paths(value[index], (*path, index))


def _replace(event: Any, path: Path, value: object) -> None:
    """Only if the event has such a member."""
    *parents, last = path
    try:
        for name in parents:
            event = event[name]
        event[last]
        if value is GONE:
            del event[last]
        else:
            event[last] = copy.deepcopy(value)
    except (KeyError, IndexError, TypeError):
        pass


def _hostile(kind: str, path: Path, value: object) -> Change:
    def change(line: bytes) -> bytes:
        event = json.loads(line)
        if event["event"] == kind:
            _replace(event, path, value)
        return json.dumps(event).replace(f'"{TOO_LARGE}"', "1e999").encode() + b"\n"

    return change


PROMPT = ("--prompt", "One two three")
COMMANDS: dict[str, tuple[object, ...]] = {
    "prepare": (),
    "verify": (),
    "info": ("--cache", "60%"),
    "generate": (*PROMPT, "-n", 3, "--cache", "60%", "-v"),
    "bench": ("-p", 3, "-n", 2, "-pg", "2,1", "-r", 2, "--cache", "60%", "--warmup", 0),
    "quality": (*PROMPT, "--routing", "exact,max-rank:6", "--cache", "60%"),
    "trace": PROMPT,
    "simulate": ("--cache", "60%", "--flash", "measured"),
}


@pytest.fixture(scope="module")
def said(bundle: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What the members are that a command's runners answer with."""
    known: dict[str, list[tuple[str, Path]]] = {}

    def find(command: str) -> list[tuple[str, Path]]:
        if command not in known:
            found: dict[tuple[str, Path], None] = {}

            def note(line: bytes) -> bytes:
                event = json.loads(line)
                paths = (path for path in _paths(event) if path != ("event",))  # never ends
                found.update(dict.fromkeys((event["event"], path) for path in paths))
                return line

            folder = tmp_path_factory.mktemp(command)
            code, _, err = _run(note, *_arguments(command, bundle, folder))
            assert code == 0, err
            known[command] = list(found)
        return known[command]

    return find


def _arguments(command: str, bundle: pathlib.Path, folder: pathlib.Path) -> list[object]:
    if command == "simulate":
        trace = bundle.parent / "trace.safetensors"
        if not trace.exists():
            _run(lambda line: line, "trace", bundle, *PROMPT, "-o", trace)
        return [command, trace, "--bundle", bundle, *COMMANDS[command]]
    written = {
        "bench": ["--out", folder / "rows.jsonl"],
        "quality": ["--out", folder / "scores.jsonl"],
        "trace": ["-o", folder / "t.safetensors"],
    }
    return [command, bundle, *COMMANDS[command], *written.get(command, [])]


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=60)
@given(data=st.data())
def test_no_answer_makes_a_command_crash(
    data: st.DataObject,
    command: str,
    said: Callable[..., Any],
    bundle: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    kind, path = data.draw(st.sampled_from(said(command)))
    value = data.draw(st.sampled_from(VALUES))
    folder = tmp_path_factory.mktemp("hostile")
    arguments = _arguments(command, bundle, folder)
    if command == "bench":
        arguments += ["--format", data.draw(st.sampled_from(["md", "csv", "json", "observer"]))]
    code, out, err = _run(_hostile(kind, path, value), *arguments)
    assert code != 1, err
    assert "defect of moe-mobile" not in err
    for text in (out, err):
        assert not set(text) & set("\x1b\x07\r\x9b\u202e\ud800")
    if arguments[-1] == "json" and code == 0:
        json.loads(out, parse_constant=pytest.fail)
    # What was written can be continued.
    if command == "bench":
        ResultFile(folder / "rows.jsonl", resume=True).close()
    if command == "quality":
        QualityFile(folder / "scores.jsonl", resume=True).close()


def test_a_number_that_no_engine_holds_is_a_broken_answer(
    bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    change = _hostile("result", ("plan", "num_experts"), 10**400)
    code, _, err = _run(change, *_arguments("bench", bundle, tmp_path))
    assert code == 10, err


@pytest.mark.parametrize("name", ["hits", "misses", "slots_changed_by_routing"])
def test_scores_count_all_slots(name: str, bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    change = _hostile("result", ("stats", "totals", name), 10**6)
    code, _, err = _run(change, *_arguments("quality", bundle, tmp_path))
    assert code == 10, err
    assert "slots" in err
    assert not (tmp_path / "scores.jsonl").exists()


def _on_a_terminal(environment: dict[str, str], *arguments: object) -> bytes:
    """What `moe-mobile` writes to a terminal that is its stdout and stderr."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=its, stderr=its, env=os.environ | environment,
    ) as process:  # fmt: skip
        os.close(its)
        written = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 4096):
                written += part
    os.close(ours)
    assert process.returncode == 0, written
    return written


@pytest.mark.parametrize("command", ["info", "prepare", "generate", "bench"])
def test_a_phone_does_not_act_on_the_terminal(
    bundle: pathlib.Path, tmp_path: pathlib.Path, command: str
) -> None:
    escape = byte_tokenizer().encode("\x1b").ids
    program = tmp_path / "moe_runner"
    program.write_text(f"""#!{sys.executable}
import json, subprocess, sys
EVIL = "\\x1b]0;owned\\x07"
runner = subprocess.Popen([{str(find_runner())!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def spoil(value):
    if isinstance(value, dict):
        kept = ("event", "phase", "stop", "residency", "precision")
        return {{name: one if name in kept else spoil(one) for name, one in value.items()}}
    if isinstance(value, list):
        return [spoil(one) for one in value]
    return value + EVIL if isinstance(value, str) else value
for request in sys.stdin.buffer:
    runner.stdin.write(request)
    runner.stdin.flush()
    while True:
        event = spoil(json.loads(runner.stdout.readline()))
        if event["event"] == "token":
            event["token"] = {escape[0]}
        if event["event"] == "result" and "fallbacks" in event:
            event["fallbacks"], event["routing"]["note"] = [EVIL], EVIL
        print(json.dumps(event), flush=True)
        if event["event"] in ("result", "error"):
            break
""")
    program.chmod(0o755)
    options = {
        "generate": ("-p", "One", "-n", 3, "-v"), "bench": ("-p", 0, "-n", 2, "-r", 1)
    }.get(command, ())  # fmt: skip
    written = _on_a_terminal({"MOE_MOBILE_RUNNER": str(program)}, command, bundle, *options)
    assert "\ufffd".encode() in written
    for act in (b"\x1b]", b"\x07", "\x9b".encode()):
        assert act not in written
