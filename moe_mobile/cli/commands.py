# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How a command is made: its examples, groups of options, and errors that name its options."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import click

from moe_mobile.base.memory import is_out_of_memory, out_of_memory
from moe_mobile.errors import MoeMobileError, UsageError, did_you_mean

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTION = "click option"
_WHOLE = 1000  # more characters than a summary has


def with_options(error: MoeMobileError, command: click.Command | None = None) -> MoeMobileError:
    """The error with a command's options in place of the settings that it names.

    Libraries name a setting: ``setting="packed_dir"``, or `` `packed_dir` `` within a text. The
    command line shows ``--packed-dir`` if the command has that option; other names stay.

    Args:
        command: None: the one that runs in this thread.
    """
    if command is None:
        command = click.get_current_context().command
    names = _option_names(command)

    def rename(text: str) -> str:
        return re.sub(r"`([a-z_]+)`", lambda found: names.get(found[1], found[0]), text)

    return error.replaced(
        cause=rename(error.cause),
        setting=None if error.setting is None else names.get(error.setting, error.setting),
        remedy=None if error.remedy is None else rename(error.remedy),
    )


def parameter_name(parameter: click.Parameter) -> str:
    """What errors call it: an option by its longest name, an argument as help writes it."""
    if isinstance(parameter, click.Option):
        return _longest(parameter.opts)
    return parameter.human_readable_name


def _longest(names: Sequence[str]) -> str:
    return max([name for name in names if name.startswith("--")] or names, key=len)


def _option_names(command: click.Command) -> dict[str, str]:
    """Options by the settings that they are: the parameter's name, and the option's own."""
    named: dict[str, str] = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            long = [text for text in parameter.opts if text.startswith("--")]
            named[parameter.name or ""] = parameter_name(parameter)
            named |= {text[2:].replace("-", "_"): text for text in long}
    if "capacity" in named:  # what the engine calls its cache, the lab calls a capacity
        named.setdefault("cache", named["capacity"])
    return named


class Command(click.Command):
    """A command whose errors name its options, and itself if memory does not suffice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # errors of the parser have none
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MoeMobileError as error:
            raise with_options(error, self) from error
        except BaseException as error:
            if is_out_of_memory(error):
                raise out_of_memory(f"run `{ctx.command_path}`") from error
            raise


class Group(click.Group):
    """A command that has commands. The error of another name asks for the one that may be meant."""

    command_class = Command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The base class cuts summaries to one line.
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(_WHOLE)) for name, one in commands if one]
            )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            remedy = f"`{ctx.command_path} --help` lists the commands"
            raise UsageError(
                f"there is no command {args[0]!r}", remedy=did_you_mean(args[0], known, remedy)
            )
        return super().resolve_command(ctx, args)


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def cli_command(*lines: str) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command whose help ends with these examples."""
    settings = {"show_default": True}
    return click.command(cls=Command, epilog=examples(*lines), context_settings=settings)


def option(*declarations: str, **attributes: Any) -> Any:
    """A field of a group of options: what ``click.option`` takes, without a parameter's name."""
    default = attributes.get("default")
    if default is None and attributes.get("is_flag"):
        default = False
    if default is None and attributes.get("multiple"):
        default = ()
    return dataclasses.field(default=default, metadata={_OPTION: (declarations, attributes)})


def again(kind: type[Any], name: str, *declarations: str, **changes: Any) -> Any:
    """A field that is the option of another group again, but for other declarations and attributes.

    Args:
        kind: the other group.
        name: of its field.
    """
    known, attributes = kind.__dataclass_fields__[name].metadata[_OPTION]
    return option(*(declarations or known), **(attributes | changes))


def option_of(kind: type[Any], name: str) -> Callable[[Decorated], Decorated]:
    """A decorator that adds one option of a group, for commands that take no other of it."""
    declarations, attributes = kind.__dataclass_fields__[name].metadata[_OPTION]
    return click.option(*declarations, name, **attributes)


def group_of(kind: type[Any], name: str) -> Callable[[Decorated], Decorated]:
    """A decorator that adds the options of a dataclass, and passes the values as one ``kind``.

    Args:
        kind: a frozen dataclass whose fields are made by :func:`option`. A subclass may have
            fields of its own, and others in place of some.
        name: of the handler's parameter.
    """
    fields = dataclasses.fields(kind)

    def decorate(function: Decorated) -> Decorated:
        @functools.wraps(function)
        def handler(**values: Any) -> Any:
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields})
            return function(**values)

        decorated: Callable[..., Any] = handler
        for field in reversed(fields):
            decorated = option_of(kind, field.name)(decorated)
        return cast(Decorated, decorated)

    return decorate
