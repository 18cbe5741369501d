# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors that a runner tells, and errors for one that ended without a word."""

from __future__ import annotations

import signal
import textwrap
from typing import Any

from moe_mobile.base import limits
from moe_mobile.base.command_line import command_line
from moe_mobile.errors import (
    BY_CODE,
    BundleCorruptError,
    KilledError,
    MoeMobileError,
    RuntimeFailedError,
)
from moe_mobile.runner.launch import Launch

NORMAL_PHONE = "Check that the phone works normally, then run it again"


def why_it_ended(
    code: int | None, last_words: str, *, name: str, launch: Launch | None
) -> MoeMobileError:
    """The error for a runner that ended without an answer.

    ``code`` is its exit code, -n if signal n ended it, None if it did not end in time.
    """
    if code is None:
        how = "closed its output"
    elif code < 0:
        how = f"was killed by {_signal_name(-code)}"
    else:
        how = f"ended with exit code {code}"
    cause = f"moe_runner {how} before it answered"
    if last_words:
        cause += "; its last words:\n" + textwrap.indent(last_words, "    ")
    if code == -signal.SIGKILL:
        return KilledError(
            cause,
            file=name,
            remedy="Probably for lack of memory: try a smaller `cache` or `context`",
        )
    if launch is None:
        remedy = "Run `moe-mobile verify BUNDLE` and `moe-mobile doctor`"
    else:
        verify = command_line("verify", "BUNDLE", device=launch.place)
        remedy = f"Run `{verify}`; {NORMAL_PHONE[0].lower()}{NORMAL_PHONE[1:]}"
    return RuntimeFailedError(cause, file=name, remedy=remedy)


def typed_error(value: dict[str, Any], launch: Launch | None) -> MoeMobileError:
    """The exception for an error object of the engine; it says on which device the files are."""
    kind = BY_CODE.get(value.get("code") or "", RuntimeFailedError)
    file, remedy = value.get("file") or None, value.get("remedy") or None
    if launch is not None and kind is BundleCorruptError:
        remedy = f"`{command_line('verify', 'BUNDLE', device=launch.place)}` says how to repair it"
    return kind(
        (value.get("cause") or "unknown error")[: limits.TOLD],
        file=file if file is None or launch is None else f"{file} on {launch.place}",
        setting=value.get("setting") or None,
        remedy=remedy,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
