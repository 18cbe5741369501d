# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a user gives as a prompt: text in a file, token ids, or chat messages."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import click

from moe_mobile.base import limits
from moe_mobile.base.files import read_limited
from moe_mobile.base.json_field import too_many_values
from moe_mobile.errors import UsageError, read_error
from moe_mobile.settings import MOST_NUMBER

if TYPE_CHECKING:
    from moe_mobile.text.chat import Message

STDIN = "standard input"
"""Its name in errors, as for a file."""

_TYPE_HERE = "> "
_MESSAGES = 'Write them like [{"role": "user", "content": "Hello"}]'


def read_text(file: IO[bytes] | None) -> str:
    """A prompt from a file, without a byte order mark. Raises UsageError if it is empty, too long
    or not UTF-8, and IoError."""
    assert file is not None
    text = _decoded(_read(file), _name(file), "prompt")
    if not text:
        raise UsageError("the file is empty", file=_name(file), remedy="Give a file with a text")
    return text


def read_messages(file: IO[bytes]) -> list[Message]:
    """Chat messages from a JSON file. Raises UsageError if it is not a list of objects or too long,
    and IoError."""
    name = _name(file)
    data = _read(file)
    if too_many_values(data):
        raise UsageError("it holds too many values", file=name, remedy=_MESSAGES)
    try:
        messages = json.loads(_decoded(data, name, "file"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"it is not valid JSON: {error}", file=name, remedy=_MESSAGES) from None
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise UsageError("it is not a list of messages", file=name, remedy=_MESSAGES)
    return messages


def typed_messages(stdin: IO[bytes]) -> Iterator[str]:
    """Each line that is typed, or comes from a pipe, until the end. Blank ones are passed over.

    Raises UsageError for a line that is too long or not UTF-8, and for a pipe without any; IoError.
    """
    terminal, count = stdin.isatty(), 0
    if terminal:
        click.echo("One message a line. Ctrl-D ends the conversation.", err=True)
    edited = terminal and sys.stdin.isatty() and sys.stdout.isatty() and _has_editing()
    while True:
        if terminal and not edited:
            click.echo(_TYPE_HERE, err=True, nl=False)
        line = _edited_line() if edited else _read_line(stdin)
        if not line:
            break
        if message := _decoded(line, STDIN, "message").strip():
            count += 1
            yield message
    if terminal:
        click.echo(err=True)
    elif not count:
        raise UsageError(
            "there is no message",
            file=STDIN,
            remedy="Type one, or give it with --prompt, --file or --messages",
        )


def _name(file: IO[bytes]) -> str:
    name = getattr(file, "name", None)  # of a descriptor: its number
    return name if isinstance(name, str) and name != "<stdin>" else STDIN


def parse_object(text: str | None, setting: str) -> dict[str, Any]:
    """A JSON object; empty without a text. Raises UsageError."""
    try:
        value = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        value, cause = None, f"{text!r} is not valid JSON: {error}"
    else:
        cause = f"{text!r} is not a JSON object"
    if not isinstance(value, dict):
        raise UsageError(cause, setting=setting, remedy='Write it like {"name": true}')
    return value


def _read(file: IO[bytes]) -> bytes:
    return read_limited(
        file, limits.TEXT_BYTES, _name(file), "Give a part of it: no model takes that much"
    )


def _read_line(stdin: IO[bytes]) -> bytes:
    try:
        line = stdin.readline(limits.TYPED_BYTES + 1)
    except OSError as error:
        raise read_error(error, STDIN) from error
    if len(line) > limits.TYPED_BYTES:
        raise UsageError(
            f"a line is longer than {limits.TYPED_BYTES >> 20} MiB",
            file=STDIN,
            remedy="Give long messages with --messages",
        )
    return line


def _has_editing() -> bool:
    """Whether a typed line can be edited, and earlier ones fetched with the arrow keys: once its
    module is imported, :func:`input` does so at a terminal."""
    try:
        import readline  # noqa: F401
    except ImportError:  # not every Python has it
        return False
    return True


def _edited_line() -> bytes:
    """As :func:`_read_line`, without limit: somebody has typed or pasted it."""
    try:
        line = input(_TYPE_HERE)
    except EOFError:
        return b""
    except UnicodeDecodeError as error:
        return error.object
    return line.encode(sys.stdin.encoding, "surrogateescape") + b"\n"


def _decoded(data: bytes, file: str, what: str) -> str:
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the {what} is not UTF-8: {error.reason} at byte {error.start}",
            file=file,
            remedy="Convert it, for example with iconv",
        ) from None


def parse_ids(text: str) -> list[int]:
    """Token ids of 32 bits, separated by commas or blanks. Raises UsageError."""
    # Blanks separate too, so that ids printed by generate can be given back.
    parts = re.split(r"\s*,\s*|\s+", text.strip())
    if not all(re.fullmatch("[0-9]{1,10}", part) for part in parts):
        raise UsageError(
            f"not a list of token ids: {text!r}",
            setting="token_ids",
            remedy="Write it like --token-ids 5,17,9",
        )
    ids = [int(part) for part in parts]
    if max(ids) > MOST_NUMBER:  # no tokenizer takes it, to say whether the model has it
        raise UsageError(
            f"token {max(ids)} is larger than {MOST_NUMBER}, and in no vocabulary",
            setting="token_ids",
            remedy="Tokenize with the model's own tokenizer",
        )
    return ids
