# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A runner with text: prompts and answers in words, by the protocol alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_mobile.runner import find_runner
from moe_mobile.text.tokenizer import BundleText
from tests.bundles import DemoMaker
from tests.conftest import NativeBuild
from tests.text.test_chat import CHAT_ML
from tests.tokenizers import TEXT

TALK = [{"role": "user", "content": "Tell me of Moses."}]


class Session:
    """One process; requests are answered before the next is sent."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def send(self, line: str) -> list[dict[str, Any]]:
        """The events of a request; the last is its result or error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        events = [json.loads(self._process.stdout.readline())]
        while events[-1]["event"] not in ("result", "error"):
            events.append(json.loads(self._process.stdout.readline()))
        return events

    def result(self, command: str, **members: Any) -> dict[str, Any]:
        last: dict[str, Any] = self.send(json.dumps({"command": command, **members}))[-1]
        assert last["event"] == "result", last
        return last

    def error(self, command: str, **members: Any) -> dict[str, Any]:
        last = self.send(json.dumps({"command": command, **members}))[-1]
        assert last["event"] == "error", last
        error: dict[str, Any] = last["error"]
        return error

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=600)


@pytest.fixture(scope="module")
def program(native_build: Callable[[str], NativeBuild]) -> Path:
    return native_build("text").program("moe_runner")


@pytest.fixture(scope="module")
def bundle(demo_bundle: DemoMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a chat template, which it has not."""
    folder = tmp_path_factory.mktemp("text") / "bundle"
    return _changed(demo_bundle(), folder, "chat_template.jinja", CHAT_ML.encode())


@pytest.fixture
def session(program: Path, bundle: Path) -> Iterator[Session]:
    opened = Session(program)
    info = opened.result("open", bundle=str(bundle), settings={"threads": 1})
    assert (info["text"], info["text_note"]) == (True, "")
    yield opened
    opened.close()


@pytest.fixture
def python(bundle: Path) -> BundleText:
    return BundleText(bundle)


def test_texts_and_messages_are_tokenized_as_in_python(
    session: Session, python: BundleText
) -> None:
    for text in (TEXT, "\ufeffHi", "naïve 天 😀\n\n", ""):
        told = session.result("tokenize", text=text)
        assert told["token_ids"] == python.encode(text)
        assert told["text"] == text.removeprefix("\ufeff")
        assert session.result("detokenize", token_ids=told["token_ids"])["text"] == (
            python.tokenizer.decode(told["token_ids"])
        )
    told = session.result("tokenize", messages=TALK)
    assert told["token_ids"] == python.encode(TALK)
    assert told["text"] == python.template.render(TALK)


@pytest.mark.parametrize("prompt", [TEXT, TALK], ids=["text", "messages"])
def test_an_answer_is_streamed_as_text(session: Session, python: BundleText, prompt: Any) -> None:
    ids = python.encode(prompt)
    bare = session.result("generate", token_ids=ids, max_new_tokens=24)
    name = "text" if isinstance(prompt, str) else "messages"
    request = {"command": "generate", name: prompt, "max_new_tokens": 24}
    *events, told = session.send(json.dumps(request))
    tokens = [event for event in events if event["event"] == "token"]
    assert [event["token"] for event in tokens] == told["token_ids"] == bare["token_ids"]
    stream = python.stream(ids)
    assert [event["text"] for event in tokens] == [stream.step(id) for id in bare["token_ids"]]
    assert told["text"] == "".join(event["text"] for event in tokens) + stream.finish()
    assert told["prompt_tokens"] == len(ids)
    assert "text" not in bare


def test_a_conversation_is_read_from_where_it_goes_on(session: Session, python: BundleText) -> None:
    def read(told: dict[str, Any]) -> int:
        entries: list[dict[str, Any]] = told["stats"]["tokens"]
        return sum(entry["count"] for entry in entries if entry["phase"] == "prefill")

    first = session.result("generate", messages=TALK, max_new_tokens=8)
    assert read(first) == first["prompt_tokens"]
    talk = [
        *TALK,
        {"role": "assistant", "content": first["text"]},
        {"role": "user", "content": "And of Aaron."},
    ]
    ids = python.encode(talk)
    held = [*python.encode(TALK), *first["token_ids"]][: first["position"]]
    more = session.result("generate", messages=talk, max_new_tokens=8)
    assert more["prompt_tokens"] == len(ids)
    if ids[: len(held)] == held:
        assert read(more) == len(ids) - len(held)
    fresh = session.result("generate", token_ids=ids, max_new_tokens=8)
    assert fresh["token_ids"] == more["token_ids"]
    # Another conversation, and one that another command has replaced, begin anew.
    again = session.result("generate", messages=TALK, max_new_tokens=8)
    assert (read(again), again["token_ids"]) == (read(first), first["token_ids"])
    session.result("score", token_ids=ids)
    anew = session.result("generate", messages=talk, max_new_tokens=8)
    assert (read(anew), anew["token_ids"]) == (len(ids), more["token_ids"])


def test_a_text_is_scored(session: Session, python: BundleText) -> None:
    told = session.result("score", text=TEXT)
    bare = session.result("score", token_ids=python.encode(TEXT))
    assert told["token_ids"] == python.encode(TEXT)
    assert told["log_probabilities"] == bare["log_probabilities"]
    assert "token_ids" not in bare


@pytest.mark.parametrize(
    ("command", "members", "setting"),
    [
        ("generate", {}, "token_ids"),
        ("generate", {"text": "a", "token_ids": [5]}, "token_ids"),
        ("generate", {"text": "a", "messages": TALK}, "token_ids"),
        ("generate", {"text": 5}, "text"),
        ("generate", {"text": "a", "continues": True}, "continues"),
        ("generate", {"text": "a", "chat_template_kwargs": {}}, "chat_template_kwargs"),
        ("generate", {"messages": "a"}, "messages"),
        ("generate", {"messages": []}, "messages"),
        ("generate", {"messages": [{"role": "user"}]}, "messages"),
        ("generate", {"text": "word " * 100_000}, "text"),
        ("tokenize", {}, "text"),
        ("tokenize", {"token_ids": [5]}, "token_ids"),
        ("detokenize", {}, "token_ids"),
    ],
)
def test_requests_that_are_refused(
    session: Session, command: str, members: dict[str, Any], setting: str
) -> None:
    error = session.error(command, **members)
    assert (error["code"], error["setting"]) == ("usage", setting)
    assert error["remedy"]


def test_odd_lines_change_nothing(session: Session, python: BundleText) -> None:
    for line in (
        '{"command": "tokenize", "text": "\\ud800"}',
        '{"command": "tokenize", "messages": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"command": "tokenize", "messages": [{"role": "user", "content": "a", "x": '
        + "[" * 5000
        + "]" * 5000
        + "}]}",
    ):
        assert session.send(line)[-1]["error"]["code"] == "usage"
    assert session.result("tokenize", text="a")["token_ids"] == python.encode("a")


def _changed(bundle: Path, folder: Path, name: str, data: bytes | None) -> Path:
    """A copy of a bundle with another file of this name, or without it."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    files = [file for file in manifest["files"] if file["path"] != name]
    (folder / name).unlink(missing_ok=True)
    if data is not None:
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        files.append({"path": name, "bytes": len(data), "sha256": digest})
    manifest["files"] = files
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def test_a_bundle_may_have_no_tokenizer(
    program: Path, demo_bundle: DemoMaker, tmp_path: Path
) -> None:
    bundle = _changed(demo_bundle(), tmp_path / "bundle", "tokenizer.json", None)
    session = Session(program)
    told = session.result("open", bundle=str(bundle), settings={"threads": 1})
    assert (told["text"], told["text_note"]) == (False, "this bundle has no tokenizer")
    error = session.error("generate", text="a")
    assert (error["code"], error["file"]) == ("usage", str(bundle / "tokenizer.json"))
    assert session.result("generate", token_ids=[5], max_new_tokens=1)["token_ids"]
    session.close()


@pytest.mark.parametrize(
    ("name", "data", "cause"),
    [
        ("tokenizer.json", b"{}", "the tokenizer cannot be read"),
        ("chat_template.jinja", b"{{ messages[0].x.y }}", "the chat template fails"),
        ("chat_template.jinja", b"{% if %}", "the chat template cannot be read"),
        ("chat_template.jinja", b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "fails"),
    ],
)
def test_broken_files_are_named(
    program: Path, demo_bundle: DemoMaker, tmp_path: Path, name: str, data: bytes, cause: str
) -> None:
    bundle = _changed(demo_bundle(), tmp_path / "bundle", name, data)
    session = Session(program)
    session.result("open", bundle=str(bundle), settings={"threads": 1})
    for _ in range(2):
        error = session.error("generate", messages=TALK)
        assert (error["code"], error["file"]) == ("bundle_invalid", str(bundle / name))
        assert cause in error["cause"]
    assert session.result("generate", token_ids=[5], max_new_tokens=1)["token_ids"]
    (bundle / name).write_bytes(b"x" + data[1:])
    session.result("open", bundle=str(bundle), settings={"threads": 1})
    assert session.error("generate", messages=TALK)["code"] == "bundle_corrupt"
    session.close()


def test_a_runner_without_text_says_so(demo_bundle: DemoMaker) -> None:
    session = Session(find_runner())
    told = session.result("open", bundle=str(demo_bundle()), settings={"threads": 1})
    assert told["text"] is False
    assert "built without text" in told["text_note"]
    for command, members in (
        ("generate", {"text": "a"}),
        ("score", {"messages": TALK}),
        ("tokenize", {"text": "a"}),
        ("detokenize", {"token_ids": [5]}),
    ):
        error = session.error(command, **members)
        assert error["code"] == "unsupported"
        assert "built without text" in error["cause"]
        assert error["remedy"]
    session.close()
