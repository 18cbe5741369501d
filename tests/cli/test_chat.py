# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`generate --chat`: one message, a conversation that is typed or comes from a pipe, and messages
in JSON, all as the model's chat template writes them."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

from moe_mobile import Engine
from moe_mobile.cli import generate
from moe_mobile.cli.answering import Prompt, Sampling, opened
from moe_mobile.cli.commands import with_options
from moe_mobile.cli.generate import command
from moe_mobile.errors import UsageError
from moe_mobile.text.tokenizer import BundleText
from tests.bundles import FEW_ROWS
from tests.cli.conftest import byte_tokenizer
from tests.cli.program import COMMAND, failed, ok, ok_json, run_cli
from tests.phones import StartPhone

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('No tools!') }}{% endif %}"
    "{% if m.content == 'bad' %}{{ raise_exception('Not that!') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}{% endfor %}"
    "{% if style is defined %}({{ style }}){% endif %}{{ eos_token }}"
)
SAMPLES = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1}
RUN = ("-n", 8, "--ignore-eos")


@pytest.fixture(scope="module")
def chat_bundle(checkpoint: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Export copies the template with the tokenizer's configuration."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(checkpoint, folder / "tiny")
    config = {"chat_template": TEMPLATE, "eos_token": "<end>"}
    (folder / "tiny" / "tokenizer_config.json").write_text(json.dumps(config))
    ok("export", folder / "tiny", folder / "bundle", "--max-batch", FEW_ROWS)
    ok("prepare", folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def stopping_bundle(
    checkpoint: pathlib.Path, chat_bundle: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The same, and the fourth token of its answer ends answers, by generation_config.json."""
    stop = answered(chat_bundle, "[user] Hi<end>")["token_ids"][3]
    folder = tmp_path_factory.mktemp("stopping")
    shutil.copytree(checkpoint, folder / "tiny")
    files = {
        "chat_template.jinja": TEMPLATE,
        "additional_chat_templates/tool_use.jinja": "not this",
        "special_tokens_map.json": '{"eos_token": {"content": "<end>"}}',
        "generation_config.json": json.dumps({"eos_token_id": [256, stop], **SAMPLES}),
    }
    for name, content in files.items():
        (folder / "tiny" / name).parent.mkdir(exist_ok=True)
        (folder / "tiny" / name).write_text(content)
    ok("export", folder / "tiny", folder / "bundle", "--max-batch", FEW_ROWS)
    for name, content in files.items():
        assert (folder / "bundle" / name).read_text() == content
    return folder / "bundle"


def answered(bundle: pathlib.Path, text: str, *options: object) -> dict[str, Any]:
    """What the model says to the text that a template should have written."""
    ids = byte_tokenizer().encode(text).ids
    answer: dict[str, Any] = ok_json(
        "generate", bundle, "--token-ids", ",".join(map(str, ids)), *(options or RUN)
    )
    assert answer["prompt_tokens"] == len(ids)
    return answer


def same(chat: dict[str, Any], plain: dict[str, Any]) -> bool:
    names = ("prompt_tokens", "token_ids", "text", "stop")
    return [chat[name] for name in names] == [plain[name] for name in names]


def typed(bundle: pathlib.Path, lines: bytes, *options: object) -> subprocess.CompletedProcess[str]:
    """A conversation from a pipe."""
    command = [*COMMAND, "generate", str(bundle), "--chat", *map(str, options or RUN)]
    done = subprocess.run(command, input=lines, capture_output=True, timeout=600, check=False)
    return subprocess.CompletedProcess(
        command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode()
    )


def test_a_message_is_written_by_the_template(chat_bundle: pathlib.Path) -> None:
    plain = answered(chat_bundle, "[user] Hi<end>")
    assert same(ok_json("generate", chat_bundle, "--chat", "-p", "Hi", *RUN), plain)


def test_messages_come_from_json(chat_bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    file = tmp_path / "messages.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(messages).encode())
    written = "[system] Be brief.[user] Hi[assistant] Yes?[user] Why?"
    plain = answered(chat_bundle, written + "<end>")
    assert same(ok_json("generate", chat_bundle, "--messages", file, *RUN), plain)
    result = run_cli(
        "generate", chat_bundle, "--messages", "-", *RUN, "--json", input=json.dumps(messages)
    )
    assert same(json.loads(result.stdout), plain)
    # What else the template reads, and the same from Python.
    values = {"style": "loud"}
    loud = answered(chat_bundle, written + "(loud)<end>")
    more = ("--chat-template-kwargs", json.dumps(values))
    assert same(ok_json("generate", chat_bundle, "--messages", file, *more, *RUN), loud)
    with Engine(chat_bundle) as engine:
        told = engine.generate(messages, 8, ignore_eos=True, chat_template_kwargs=values).result()
        assert list(told.token_ids) == loud["token_ids"]
        with pytest.raises(UsageError, match="it is for messages") as caught:
            engine.generate("Hi", 8, chat_template_kwargs=values)
        assert caught.value.setting == "chat_template_kwargs"


def test_a_conversation_remembers_what_was_said(chat_bundle: pathlib.Path) -> None:
    first = answered(chat_bundle, "[user] Hi<end>")
    talk = f"[user] Hi[assistant] {first['text']}[user] Wh\u00fd?<end>"
    second = answered(chat_bundle, talk)
    result = typed(chat_bundle, "\ufeffHi\n\n  Wh\u00fd?".encode())
    assert result.returncode == 0, result.stderr
    # Bytes that are no text are shown as U+FFFD.
    assert result.stdout == f"{first['text']}\n{second['text']}\n"
    assert result.stderr.count(" tok/s | first token after") == 2
    assert "> " not in result.stderr


@pytest.mark.parametrize("end", ["length", "eos"])
def test_what_was_read_before_is_not_read_again(stopping_bundle: pathlib.Path, end: str) -> None:
    def of_prompt(answer: dict[str, Any]) -> int:
        return sum(
            step["count"] for step in answer["stats"]["tokens"] if step["phase"] == "prefill"
        )

    sampling = Sampling(8, 0.0, 0, 1.0, 0, ignore_eos=end == "length")
    settings = {"context": 40}
    first, second = byte_tokenizer().encode("[user] Hi<end>").ids, [2, 30, 4, 8]
    with (
        opened(stopping_bundle, sampling, settings, show=False) as model,
        opened(stopping_bundle, sampling, settings, show=False) as other,
    ):

        def answer(ids: list[int]) -> dict[str, Any]:
            return model.answer(Prompt.of_ids(stopping_bundle, ids))

        begun = answer(first)
        assert begun["stop"] == end
        talk = first + begun["token_ids"] + second
        with pytest.raises(UsageError, match="41 tokens do not fit"):
            answer(talk + [1] * (41 - len(talk)))
        told = answer(talk)
        # The last token of an answer that was cut was never read.
        assert of_prompt(told) == len(second) + (end == "length")
        anew = other.answer(Prompt.of_ids(stopping_bundle, talk))
        assert of_prompt(anew) == anew["prompt_tokens"] == len(talk)
        names = ("prompt_tokens", "token_ids", "text", "stop")
        assert [told[name] for name in names] == [anew[name] for name in names]
        # Another conversation, and one that is no longer than what was read.
        for ids in (second, second):
            assert of_prompt(answer(ids)) == len(ids)


def test_a_message_that_the_template_refuses_is_left_out(chat_bundle: pathlib.Path) -> None:
    result = typed(chat_bundle, b"bad\nHi")
    assert result.returncode == 2
    assert result.stdout == answered(chat_bundle, "[user] Hi<end>")["text"] + "\n"
    assert "error: the conversation: " in result.stderr
    assert "Not that!" in result.stderr


def test_a_conversation_is_typed_at_a_terminal(chat_bundle: pathlib.Path) -> None:
    first = answered(chat_bundle, "[user] Hi<end>")
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "generate", str(chat_bundle), "--chat", *map(str, RUN)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    try:
        os.write(ours, b"Hi\n\x04")  # Ctrl-D
        stdout, stderr = process.communicate(timeout=600)
    finally:
        process.kill()
        os.close(ours)
    assert process.returncode == 0, stderr
    assert stdout.decode(errors="replace") == first["text"] + "\n"
    lines = stderr.decode().splitlines()
    assert lines[0] == "One message a line. Ctrl-D ends the conversation."
    assert sum(line.startswith("> ") for line in lines) == 2


def test_a_typed_line_can_be_edited() -> None:
    """At a terminal, arrow keys move in the line and recall the last one."""
    program = (
        "import sys\n"
        "from moe_mobile.cli.prompt import typed_messages\n"
        "for line in typed_messages(sys.stdin.buffer):\n"
        "    print([line], flush=True)\n"
    )
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    seen = b""
    try:
        for typed_keys, shown in ((b"", b"> "), (b"Hello\x1b[D\x1b[Dxy\r", b"['Helxylo']"),
                                  (b"\x1b[A!\r", b"['Helxylo!']")):  # fmt: skip
            os.write(ours, typed_keys)
            while shown not in seen:
                seen += os.read(ours, 4096)
        while not seen.endswith(b"> "):
            seen += os.read(ours, 4096)
        os.write(ours, b"\x04")  # Ctrl-D
        _, stderr = process.communicate(timeout=600)
    finally:
        process.kill()
        os.close(ours)
    assert process.returncode == 0, stderr
    assert stderr.decode() == "One message a line. Ctrl-D ends the conversation.\n\n"


def test_the_tokens_of_generation_config_end_an_answer(
    chat_bundle: pathlib.Path, stopping_bundle: pathlib.Path
) -> None:
    bundle = stopping_bundle
    whole = answered(chat_bundle, "[user] Hi<end>")["token_ids"]
    length = whole.index(whole[3])
    answer = ok_json("generate", bundle, "--chat", "-p", "Hi", "-n", 8)
    assert (answer["token_ids"], answer["stop"]) == (whole[:length], "eos")
    # Greedy, which is said, and how to have the model's own settings.
    note = "note: answers are the likeliest tokens; the model's own settings are "
    own = "--temperature 0.6 --top-k 20 --top-p 0.95"
    chat = ("generate", bundle, "--chat", "-p", "Hi", "-n", 8)
    assert f"{note}{own} (not supported: min_p)\n" in run_cli(*chat).stderr
    for options in (own.split(), ["--temperature", "0"]):
        assert note not in run_cli(*chat, *options).stderr
    assert note not in run_cli("generate", bundle, "-p", "Hi", "-n", 2).stderr


def test_a_phone_answers(chat_bundle: pathlib.Path, phone: StartPhone) -> None:
    first = answered(chat_bundle, "[user] Hi<end>")
    second = answered(chat_bundle, f"[user] Hi[assistant] {first['text']}[user] Why?<end>")
    on_phone = (*RUN, "--device", phone().serial)
    result = typed(chat_bundle, b"Hi\nWhy?\n", *on_phone)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{first['text']}\n{second['text']}\n"


def test_what_a_chat_needs(bundle: pathlib.Path, chat_bundle: pathlib.Path) -> None:
    error = failed(2, "generate", bundle, "--chat", "-p", "Hi")
    assert "no chat template" in error["cause"]
    result = typed(bundle, b"Hi\n")
    assert (result.returncode, result.stdout) == (2, "")
    assert "this model has no chat template" in result.stderr
    error = failed(2, "generate", chat_bundle, "--chat", "--token-ids", "1,2")
    assert error["setting"] == "--chat"
    error = failed(2, "generate", chat_bundle, "--chat")
    assert (error["setting"], error["cause"]) == (
        "--json",
        "it prints one answer, and a typed conversation has several",
    )
    for lines, cause in ((b"\n", "there is no message"), (b"\xff\n", "the message is not UTF-8")):
        result = typed(chat_bundle, lines)
        assert result.returncode == 2
        assert f"error: standard input: {cause}" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "it is not valid JSON"),
        ("[" * 10**5, "it is not valid JSON"),
        ("{}", "it is not a list of messages"),
        ('["Hi"]', "it is not a list of messages"),
    ],
)
def test_files_that_hold_no_messages(
    chat_bundle: pathlib.Path, tmp_path: pathlib.Path, content: str, cause: str
) -> None:
    file = tmp_path / "messages.json"
    file.write_text(content)
    error = failed(2, "generate", chat_bundle, "--messages", file)
    assert (error["file"], error["setting"]) == (str(file), None)
    assert error["cause"].startswith(cause)


@pytest.mark.parametrize(
    ("options", "setting", "cause"),
    [
        (("--messages", "FILE", "-p", "Hi"), "--messages", "there is another text"),
        (("--messages", "EMPTY"), "--messages", "there are no messages"),
        (("--messages", "FILE"), "--messages", "refuses the messages: No tools!"),
        (
            ("-p", "Hi", "--chat-template-kwargs", "{}"),
            "--chat-template-kwargs",
            "it is for chat messages",
        ),
        (
            ("--chat", "-p", "Hi", "--chat-template-kwargs", "[1]"),
            "--chat-template-kwargs",
            "'[1]' is not a JSON object",
        ),
        (
            ("--chat", "-p", "Hi", "--chat-template-kwargs", '{"messages": 1}'),
            "--chat-template-kwargs",
            "'messages' cannot be set",
        ),
        (
            ("--chat", "-p", "Hi", "--chat-template-kwargs", '{"tools": [{"x": NaN}]}'),
            "--chat-template-kwargs",
            "it is not JSON data",
        ),
    ],
)
def test_options_that_do_not_fit(
    chat_bundle: pathlib.Path,
    tmp_path: pathlib.Path,
    options: tuple[str, ...],
    setting: str,
    cause: str,
) -> None:
    (tmp_path / "FILE").write_text('[{"role": "tool", "content": "9"}]')
    (tmp_path / "EMPTY").write_text("[]")
    named = [tmp_path / one if one in ("FILE", "EMPTY") else one for one in options]
    error = failed(2, "generate", chat_bundle, *named)
    assert error["setting"] == setting
    assert cause in error["cause"]


def test_a_prompt_that_is_too_long_names_where_it_came_from(
    chat_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    long = "Hi" * 20
    (tmp_path / "text").write_text(long)
    (tmp_path / "messages").write_text(json.dumps([{"role": "user", "content": long}]))
    for options, origin in (
        (("-p", long), "--prompt"),
        (("-f", tmp_path / "text"), "--file"),
        (("--chat", "-f", tmp_path / "text"), "--file"),
        (("--token-ids", "5," * 39 + "5"), "--token-ids"),
        (("--messages", tmp_path / "messages"), "--messages"),
    ):
        error = failed(2, "generate", chat_bundle, *options, "--context", 32)
        assert error["setting"] == origin
        assert "tokens do not fit in a context of 32" in error["cause"]
        assert "or give a larger --context" in error["remedy"]


def test_a_message_that_does_not_fit_does_not_end_the_conversation(
    chat_bundle: pathlib.Path,
) -> None:
    options = (*RUN, "--context", 32)
    first = answered(chat_bundle, "[user] Hi<end>", *options)
    result = typed(chat_bundle, b"Hi" * 20 + b"\nHi\n", *options)
    assert result.returncode == 2
    assert result.stdout == f"{first['text']}\n"
    assert result.stderr.count("error: the conversation: ") == 1
    assert "tokens do not fit in a context of 32" in result.stderr


def test_an_answer_that_was_cut_says_so(chat_bundle: pathlib.Path) -> None:
    def told(*options: object) -> str:
        return run_cli("generate", chat_bundle, "--chat", "-p", "Hi", *options).stderr

    assert "tokens | stopped after 8 tokens (-n) |" in told(*RUN)
    # Room for some tokens of the default's 512.
    assert "tokens | stopped as the context is full (-c) |" in told("--ignore-eos", "-c", 32)


def test_chats_may_be_longer_than_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    class SamplingSeenError(Exception):
        pass

    def seen(bundle: object, sampling: Sampling, *_: object, **__: object) -> None:
        raise SamplingSeenError(sampling.max_new_tokens)

    monkeypatch.setattr(generate, "opened", seen)
    monkeypatch.setattr(generate, "require_bundle", lambda bundle: None)
    monkeypatch.setattr(generate, "prompt_of", lambda bundle, text: None)
    monkeypatch.setattr(BundleText, "encode", lambda *_: [1])
    monkeypatch.setattr(BundleText, "stream", lambda *_: None)
    for options, most in ((("-p", "x"), 128), (("--chat", "-p", "x"), 512),
                          (("--chat", "-p", "x", "-n", "9"), 9)):  # fmt: skip
        with pytest.raises(SamplingSeenError) as caught:
            command.main(["b", *options], standalone_mode=False)
        assert caught.value.args == (most,)


def test_errors_about_the_prompt_name_its_option() -> None:
    error = with_options(UsageError("is refused", setting="prompt"), command)
    assert error.setting == "--prompt"
    error = with_options(UsageError("no tokenizer", remedy="Give `token_ids`"), command)
    assert error.remedy == "Give --token-ids"
