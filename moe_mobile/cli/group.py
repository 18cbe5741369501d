# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The command group: imports commands on use, turns errors into text and exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

import moe_mobile
from moe_mobile.base.memory import is_panic
from moe_mobile.cli.commands import Group, parameter_name
from moe_mobile.cli.errors import INTERNAL_EXIT_CODE, report
from moe_mobile.cli.output import STDOUT, guarded_stdout, open_standard_streams
from moe_mobile.errors import (
    CancelledError,
    IoError,
    MoeMobileError,
    UsageError,
    did_you_mean,
    read_error,
    write_error,
)

# What options are called elsewhere, of which nothing in their spelling reminds.
_OTHER_NAMES = {
    "--capacity": "--cache",
    "--no-warmup": "--warmup 0",
    "--output": "--out",
    "--rows": "--out",
    "--serial": "--device",
    "--text": "--file",
}

# The end of click's message about a value that is not a number.
_NO_NUMBER = re.compile(r"is not a valid (integer|float)( range)?$")
_NUMBERS = {"integer": "is not a whole number", "float": "is not a number"}


_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class CommandGroup(Group):
    """Commands by name with their one-line help; module `moe_mobile.cli.NAME` holds `command`."""

    def __init__(self, *, commands: Mapping[str, str], **options: Any) -> None:
        super().__init__(
            no_args_is_help=True,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
            **options,
        )
        self._summaries = dict(commands)
        self.params.append(
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_print_version,
                help="Print the version and exit.",
            )
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._summaries:
            return None
        module = importlib.import_module(f"moe_mobile.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The base class imports every command to print its summary.
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> NoReturn:
        """Run the command line and exit: 0, or the exit code of the error it printed."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        if not open_standard_streams():
            sys.exit(
                report(
                    IoError("is closed", file=STDOUT, remedy="Run it with an open one"),
                    as_json=False,
                )
            )
        _signals_interrupt()
        with guarded_stdout():
            code = self._run(arguments, prog_name or "moe-mobile", extra)
        sys.exit(_flush(code))

    def _run(self, arguments: list[str], prog_name: str, extra: dict[str, Any]) -> int:
        as_json = _wants_json(arguments)
        try:
            _require_utf8(arguments)
            value = super().main(arguments, prog_name, **extra)
        except MoeMobileError as error:
            return report(error, as_json=as_json)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            return 2
        except click.UsageError as error:
            return report(usage_error(error), as_json=as_json)
        except click.ClickException as error:
            return report(UsageError(error.format_message()), as_json=as_json)
        except (KeyboardInterrupt, click.Abort):
            return report(CancelledError("stopped by the user"), as_json=as_json)
        except BrokenPipeError:
            return 1  # the reader of our output left (`| head`)
        except OSError as error:
            name = error.filename if isinstance(error.filename, str) else "a file"
            # What writes files types its errors itself. These come of writing alone.
            typed = write_error if error.errno in _OF_WRITING else read_error
            return report(typed(error, name), as_json=as_json)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            traceback.print_exc()
            click.echo("error: this is a defect of moe-mobile; please report it", err=True)
            return INTERNAL_EXIT_CODE
        return value if isinstance(value, int) else 0


def _signals_interrupt() -> None:
    """Let SIGTERM and SIGHUP end what runs as Ctrl-C does, on phones too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not if nohup wants it ignored
            signal.signal(number, signal.default_int_handler)


def _require_utf8(arguments: Sequence[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"the argument {argument!r} is not UTF-8",
                remedy="Give UTF-8; a link reaches a file of another name",
            ) from None


def _flush(code: int) -> int:
    """Write what is still buffered for stdout. Returns the exit code, given that so far."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would flush again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code or 1
        return code or report(write_error(error, STDOUT), as_json=False)
    return code


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"moe-mobile {moe_mobile.__version__}")
        ctx.exit()


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors go to stdout as JSON too; asked before the arguments are known to be valid."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def usage_error(error: click.UsageError) -> UsageError:
    """The typed error for one of click's, with the option or argument that it is about."""
    command = error.ctx.command_path if error.ctx is not None else "moe-mobile"
    remedy = f"`{command} --help` lists what is possible"
    if not isinstance(error, click.NoSuchOption):
        setting = _setting(error)
        cause = error.format_message().rstrip(".") if setting is None else _cause(error)
        return UsageError(cause, setting=setting, remedy=remedy)
    options = [] if error.ctx is None else _options(error.ctx.command)
    meant = _OTHER_NAMES.get(error.option_name, "")
    if meant.partition(" ")[0] in options:
        remedy = f"Did you mean {meant!r}? {remedy}"
    else:
        remedy = did_you_mean(error.option_name, options, remedy)
    return UsageError(f"there is no option {error.option_name!r}", remedy=remedy)


def _cause(error: click.UsageError) -> str:
    """Without the option, which begins the message."""
    if isinstance(error, click.MissingParameter):
        return "it is missing"
    text = re.sub("^Option '[^']*' ", "it ", error.message).rstrip(".")
    return _NO_NUMBER.sub(lambda found: _NUMBERS[found[1]], text)


def _setting(error: click.UsageError) -> str | None:
    """The option or argument that it is about."""
    if isinstance(error, click.BadParameter):
        return None if error.param is None else parameter_name(error.param)
    if not isinstance(error, click.BadOptionUsage) or error.ctx is None:
        return None
    named = [one for one in error.ctx.command.params if error.option_name in _names(one)]
    return parameter_name(named[0]) if named else error.option_name


def _options(command: click.Command) -> list[str]:
    return [name for one in command.params for name in _names(one)]


def _names(parameter: click.Parameter) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]
