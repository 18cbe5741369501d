# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A model and a text for it: a bundle in the engine or a checkpoint in transformers."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from moe_mobile.cli.prompt import TOKENIZER, load_tokenizer, parse_ids, read_text
from moe_mobile.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from moe_mobile.routing.transformers_model import Checkpoint

__all__ = [
    "FOR_CHECKPOINTS",
    "Text",
    "bundle_ids",
    "checkpoint_ids",
    "checkpoint_options",
    "given_text",
    "is_bundle",
    "refuse_options",
    "source_argument",
    "source_path",
    "text_options",
]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

Text = str | list[int]
"""A text, or its token ids."""

FOR_CHECKPOINTS = ("dtype", "torch_device")
"""Names of :func:`checkpoint_options`."""

_MANIFEST = "bundle.json"
_TEXT = (
    click.option("-p", "--prompt", help="The text."),
    click.option(
        "-f",
        "--file",
        "--text",
        "text_file",
        type=click.File("rb"),
        help="Read it from a file; - is stdin.",
    ),
    click.option("--token-ids", help="The text as token ids, separated by commas."),
    click.option("-n", "--tokens", type=click.IntRange(1), help="Only the first so many."),
)
_CHECKPOINT = (
    click.option(
        "--dtype",
        type=click.Choice(("float32", "bfloat16")),
        default="float32",
        show_default=True,
        help="Of MODEL: what it computes with.",
    ),
    click.option(
        "--torch-device",
        metavar="NAME",
        help="Of MODEL: PyTorch's name for where it runs.  [default: cuda, or else cpu]",
    ),
)

source_argument = click.argument("source", metavar="BUNDLE|MODEL")


def text_options(function: Decorated) -> Decorated:
    """``prompt``, ``text_file`` and ``token_ids``, see :func:`given_text`, and ``tokens``."""
    for option in reversed(_TEXT):
        function = option(function)
    return function


def checkpoint_options(function: Decorated) -> Decorated:
    """``dtype`` and ``torch_device``."""
    for option in reversed(_CHECKPOINT):
        function = option(function)
    return function


def given_text(prompt: str | None, file: IO[bytes] | None, token_ids: str | None) -> Text:
    """The one that was given of three. Raises UsageError for none or several."""
    if sum(value is not None for value in (prompt, file, token_ids)) != 1:
        raise UsageError("give the text once", remedy="Use one of --prompt, --file and --token-ids")
    if token_ids is not None:
        return parse_ids(token_ids)
    return prompt if prompt is not None else read_text(file)


def is_bundle(source: str) -> bool:
    """Whether it is a bundle's folder; else it names a checkpoint."""
    return (pathlib.Path(source) / _MANIFEST).exists()


def source_path(source: str) -> pathlib.Path | None:
    """What a command reads of it from the disk; None for the demo checkpoint inside the package."""
    return None if source == "demo" and not is_bundle(source) else pathlib.Path(source)


def refuse_options(names: Sequence[str], wanted: str) -> None:
    """Refuses options that would silently do nothing: they are for a ``wanted``, a kind of source.

    Raises UsageError for one of the running command's options of these names that was given.
    """
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in names and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = max(parameter.opts, key=len)
            raise UsageError(
                f"it is for a {wanted}, and {ctx.params['source']} is none",
                setting=option,
                remedy=f"Leave it out, or name a {wanted} (`moe-mobile export` makes bundles)",
            )


def bundle_ids(bundle: pathlib.Path, text: Text) -> list[int]:
    """Token ids by the bundle's tokenizer; errors as :func:`load_tokenizer`."""
    if isinstance(text, list):
        return text
    ids: list[int] = load_tokenizer(bundle).encode(text).ids
    return ids


def checkpoint_ids(checkpoint: Checkpoint, text: Text) -> list[int]:
    """Token ids by the checkpoint's tokenizer.

    Raises UsageError without one, CheckpointError for one that cannot be read.
    """
    if isinstance(text, list):
        return text
    ids: list[int] = _tokenizer(checkpoint).encode(text).ids
    return ids


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    from tokenizers import Tokenizer

    data = checkpoint.model.files.get(TOKENIZER)
    if data is None:
        raise UsageError(
            f"there is no {TOKENIZER}",
            file=checkpoint.location,
            remedy="Pass --token-ids instead of text",
        )
    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"{TOKENIZER} cannot be read: {error}", file=checkpoint.location
        ) from error
