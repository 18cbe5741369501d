# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A model and a text for it: a bundle in the engine or a checkpoint in transformers."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from moe_mobile.base.files import reading
from moe_mobile.bundle.unfinished import require_finished
from moe_mobile.cli.commands import group_of, option
from moe_mobile.cli.options import names_of
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.cli.prompt import parse_ids, read_text
from moe_mobile.cli.types import Choice, InputFile, NonEmpty, Whole
from moe_mobile.cli.writable import opened_path
from moe_mobile.errors import UsageError
from moe_mobile.settings import EngineSettings

if TYPE_CHECKING:
    from moe_mobile.quality.subject import Subject

Text = str | list[int]
"""A text, or its token ids."""

_MANIFEST = "bundle.json"
_WAYS = "one of --prompt, --file and --token-ids"

source_argument = click.argument("source", metavar="BUNDLE|MODEL", type=NonEmpty())


@dataclass(frozen=True)
class PromptOptions:
    """A text, given in one of three ways."""

    prompt: str | None = option("-p", "--prompt", help="The text to continue.")
    text_file: IO[bytes] | None = option(
        "-f", "--file", type=InputFile(), help="Read it from a file; - is stdin."
    )
    token_ids: str | None = option(
        "--token-ids", help="The prompt as token ids, separated by commas."
    )

    @property
    def given(self) -> bool:
        """Whether there is any text."""
        return any(value is not None for value in (self.prompt, self.text_file, self.token_ids))

    @property
    def option(self) -> str:
        """That which gave the text."""
        if self.token_ids is not None:
            return "--token-ids"
        return "--prompt" if self.prompt is not None else "--file"

    @property
    def path(self) -> pathlib.Path | None:
        """The file that the text is read from."""
        return opened_path(self.text_file)

    def read(self) -> Text:
        """The text. Raises UsageError if it was given more than once, or not at all."""
        if not self.given:
            raise UsageError("there is no text", remedy=f"Give a text with {_WAYS}")
        values = (self.prompt, self.text_file, self.token_ids)
        if sum(value is not None for value in values) > 1:
            raise UsageError("the text is given more than once", remedy=f"Give it once: {_WAYS}")
        if self.token_ids is not None:
            return parse_ids(self.token_ids)
        if self.prompt is not None:
            return self.prompt.removeprefix("\ufeff")  # a byte order mark, as in a file
        return read_text(self.text_file)


@dataclass(frozen=True)
class TextOptions(PromptOptions):
    """A text to record or score."""

    prompt: str | None = option("-p", "--prompt", help="The text.")
    text_file: IO[bytes] | None = option(
        "-f", "--file", type=InputFile(), help="Read it from a file; - is stdin."
    )
    token_ids: str | None = option(
        "--token-ids", help="The text as token ids, separated by commas."
    )
    tokens: int | None = option(
        "-n", "--tokens", type=Whole(1), help="Use only this many tokens from the start."
    )


@dataclass(frozen=True)
class CheckpointOptions:
    """How transformers runs a checkpoint."""

    dtype: str = option(
        "--dtype",
        type=Choice(("float32", "bfloat16")),
        default="float32",
        help="For MODEL: the type to compute in.",
    )
    torch_device: str | None = option(
        "--torch-device",
        metavar="NAME",
        help="For MODEL: PyTorch's name of the device to run on.  [default: cuda, or else cpu]",
    )


@contextlib.contextmanager
def blaming(origin: str) -> Iterator[None]:
    """Errors about the text name where it came from, not the first option that gives one."""
    try:
        yield
    except UsageError as error:
        if error.setting in ("prompt", "token_ids"):
            raise error.replaced(setting=origin) from error
        raise


prompt_options = group_of(PromptOptions, "prompt")
text_options = group_of(TextOptions, "text")
checkpoint_options = group_of(CheckpointOptions, "checkpoint")


def is_bundle(source: str) -> bool:
    """Whether it is a bundle's folder; else it names a checkpoint.

    Raises BundleInvalidError if it will be a bundle once its export is finished, and IoError if
    that cannot be found out.
    """
    require_finished(pathlib.Path(source))
    with reading(source):
        return (pathlib.Path(source) / _MANIFEST).exists()


def source_path(source: str) -> pathlib.Path | None:
    """The files that a command reads; None for the demo checkpoint inside the package."""
    return None if source == "demo" and not is_bundle(source) else pathlib.Path(source)


def refuse_others(
    source: str, *of_bundles: type[Any], but: Collection[str] = (), also: Collection[str] = ()
) -> None:
    """Refuse options that would silently do nothing: a bundle's for a checkpoint, and the reverse.

    Args:
        source: what the running command was given.
        of_bundles: groups of options that are for bundles only, with ``--device``.
        but: parameters of those groups that are for checkpoints too.
        also: parameters that are for bundles only.

    Raises UsageError for one of the running command's options that was given.
    """
    if is_bundle(source):
        wanted, names = "checkpoint", names_of(CheckpointOptions)
    else:
        wanted, names = "bundle", ({"device", *also} | names_of(*of_bundles)) - {*but}
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in names and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UsageError(
                f"it is for a {wanted}, and {source} is not one",
                setting=max(parameter.opts, key=len),
                remedy=f"Leave it out, or name a {wanted} (`moe-mobile export` makes bundles)",
            )


def open_subject(
    source: str,
    device: str | None,
    settings: EngineSettings,
    checkpoint: CheckpointOptions,
    progress: ProgressBar,
) -> Subject:
    """The model that a command was given. Raises what opening the device or the checkpoint does.

    ``settings``: of the engine; a checkpoint takes their ``context`` only.
    """
    from moe_mobile.quality.subject import BundleSubject, CheckpointSubject

    if is_bundle(source):
        return BundleSubject(pathlib.Path(source), device, settings.as_request(), progress)
    return CheckpointSubject(
        source, **vars(checkpoint), context=settings.context, progress=progress
    )
