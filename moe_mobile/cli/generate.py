# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile generate`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click

from moe_mobile.bundle.unfinished import require_bundle
from moe_mobile.cli.answering import (
    CHAT_TOKENS,
    Answerer,
    Prompt,
    Sampling,
    cut,
    opened,
    statistics_line,
)
from moe_mobile.cli.commands import cli_command, group_of, option, with_options
from moe_mobile.cli.errors import format_error
from moe_mobile.cli.options import (
    CacheOptions,
    ReadingOptions,
    bundle_argument,
    cache_options,
    device_option,
    echo_json,
    engine_settings,
    json_option,
    reading_options,
)
from moe_mobile.cli.prompt import parse_object, read_messages, typed_messages
from moe_mobile.cli.source import PromptOptions, blaming, prompt_options
from moe_mobile.cli.tuned import is_default, settings_option
from moe_mobile.cli.types import InputFile
from moe_mobile.errors import UsageError
from moe_mobile.text.own_sampling import own_sampling
from moe_mobile.text.tokenizer import BundleText

if TYPE_CHECKING:
    from moe_mobile.text.chat import Message


_CONVERSATION = "the conversation"
_HOW_TOKENS_ARE_CHOSEN = ("temperature", "top_k", "top_p")


@dataclass(frozen=True)
class ChatOptions:
    """Messages for a model that was tuned for chat."""

    chat: bool = option(
        "--chat",
        is_flag=True,
        help="Write the text as a user's message, with the model's chat template. Without a text: "
        "a conversation, one message a line, typed or from a pipe.",
    )
    messages: IO[bytes] | None = option(
        "--messages",
        type=InputFile(),
        help="Answer the chat messages in this JSON file; - is stdin.",
    )
    chat_template_kwargs: str | None = option(
        "--chat-template-kwargs",
        metavar="JSON",
        help='What the chat template reads besides, such as {"enable_thinking": false}.',
    )

    def read(self, prompt: PromptOptions) -> list[Message] | None:
        """The messages to answer; None: they are typed, or this is no chat (:attr:`is_chat`).

        Raises UsageError for options that do not go together.
        """
        if self.messages is not None:
            if prompt.given:
                raise UsageError(
                    "the messages are in its file, and there is another text",
                    setting="--messages",
                    remedy="Give one of them",
                )
            return read_messages(self.messages)
        if not self.chat:
            if self.chat_template_kwargs is not None:
                raise UsageError(
                    "it is for chat messages",
                    setting="--chat-template-kwargs",
                    remedy="Add --chat, or leave it out",
                )
            return None
        if not prompt.given:
            return None
        text = prompt.read()
        if not isinstance(text, str):
            raise UsageError(
                "a message is a text, not token ids",
                setting="--chat",
                remedy="Use --prompt or --file, or leave out --chat",
            )
        return [{"role": "user", "content": text}]

    @property
    def is_chat(self) -> bool:
        """Whether there are messages, and not a text to continue."""
        return self.chat or self.messages is not None

    @property
    def values(self) -> dict[str, Any]:
        """What the template reads besides. Raises UsageError if it is not a JSON object."""
        return parse_object(self.chat_template_kwargs, "chat_template_kwargs")


@cli_command(
    'moe-mobile generate demo -p "Once upon a time"',
    "moe-mobile generate demo -f prompt.txt -n 200 --temperature 0.8 --top-p 0.95 --seed 7",
    'moe-mobile generate demo -p "Hello" --cache 25% --json',
    'moe-mobile generate out/qwen3-moe --chat -p "Why is the sky blue?"',
    "moe-mobile generate out/qwen3-moe --chat -n 1000    # a conversation; Ctrl-D ends it",
    "moe-mobile generate out/qwen3-moe --messages messages.json --json",
    'moe-mobile generate demo -p "Hello" --cache 25% --routing cache-prior:auto',
    "moe-mobile generate demo --token-ids 5,17,9       # a bundle without a tokenizer",
)
@bundle_argument
@settings_option
@prompt_options
@group_of(ChatOptions, "chat")
@group_of(Sampling, "sampling")
@cache_options
@reading_options
@device_option
@click.option("-v", "--verbose", is_flag=True, help="Show the memory plan, on stderr.")
@json_option
def command(
    bundle: pathlib.Path,
    prompt: PromptOptions,
    chat: ChatOptions,
    sampling: Sampling,
    cached: CacheOptions,
    reading: ReadingOptions,
    device: str | None,
    verbose: bool,
    as_json: bool,
) -> int:
    """Continue a prompt with a bundle's model, streaming text to stdout as it comes.

    One line of statistics follows on stderr.
    """
    if chat.is_chat and is_default("max_new_tokens"):
        sampling = dataclasses.replace(sampling, max_new_tokens=CHAT_TOKENS)
    messages = chat.read(prompt)
    typed = messages is None and chat.is_chat
    if typed and as_json:
        raise UsageError(
            "it prints one answer, and a typed conversation has several",
            setting="--json",
            remedy="Give a message with --prompt, or a conversation with --messages",
        )
    given = prompt.read() if messages is None and not typed else ""
    values = chat.values
    require_bundle(bundle)
    text = BundleText(bundle)
    ready: Prompt | None = None
    origin = prompt.option if chat.messages is None else "--messages"
    if messages is not None:
        with blaming(origin):
            ready = Prompt.of_text(text, text.encode(messages, values))
    elif typed:
        # Raises if the model has no template or tokenizer, before the user types anything.
        _ = text.template, text.tokenizer
    else:
        with blaming(origin):
            ready = prompt_of(bundle, given)
    settings = engine_settings(bundle, reading, cached).as_request()
    with opened(
        bundle, sampling, settings, show=not as_json, device=device, verbose=verbose
    ) as model:
        if chat.is_chat and all(map(is_default, _HOW_TOKENS_ARE_CHOSEN)):
            _echo_own_sampling(bundle)
        if ready is not None:
            with blaming(origin):
                answer = model.answer(ready)
            if as_json:
                echo_json(answer)
            else:
                _echo_statistics(answer)
            return 0
        return _talk(model, text, values)


def _echo_own_sampling(bundle: pathlib.Path) -> None:
    """Says so if the model's makers sample answers. The default stays greedy: one prompt, one
    answer, whatever a checkpoint brings."""
    own = own_sampling(bundle)
    if own is None:
        return
    options = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in own.settings.items()
    )
    note = f"answers are the likeliest tokens; the model's own settings are {options}"
    if own.others:
        note += f" (not supported: {', '.join(own.others)})"
    click.echo(f"note: {note}", err=True)


def _talk(model: Answerer, text: BundleText, values: dict[str, Any]) -> int:
    """Answer what is typed until it ends. A message that the context has no room for, or that the
    chat template refuses, is reported and left out. Returns the exit code: of a pipe, all must have
    been answered."""
    messages: list[Message] = []
    stdin = click.open_file("-", "rb")
    code = 0
    for line in typed_messages(stdin):
        asked = [*messages, {"role": "user", "content": line}]
        try:
            with blaming(_CONVERSATION):
                answer = model.answer(Prompt.of_text(text, text.encode(asked, values)))
        except UsageError as error:
            if error.setting != _CONVERSATION:
                raise
            click.echo(format_error(with_options(error)), err=True)
            code = 0 if stdin.isatty() else error.exit_code
            continue
        messages = [*asked, {"role": "assistant", "content": answer["text"]}]
        _echo_statistics(answer)
    return code


def prompt_of(bundle: pathlib.Path, text: str | Sequence[int]) -> Prompt:
    """Of a text to continue, or of token ids."""
    if not isinstance(text, str):
        return Prompt.of_ids(bundle, text)
    tokenizer = BundleText(bundle)
    return Prompt.of_text(tokenizer, tokenizer.encode(text))


def _echo_statistics(answer: dict[str, Any]) -> None:
    click.echo("\n" + statistics_line(answer, cut(answer)), err=True)
