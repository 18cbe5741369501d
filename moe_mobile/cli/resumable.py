# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors of work whose rows are kept in a file."""

from __future__ import annotations

import pathlib

from moe_mobile.errors import BudgetError, CancelledError, MoeMobileError, UsageError

__all__ = ["resumable"]


def resumable(error: MoeMobileError, option: str, rows: pathlib.Path | None) -> MoeMobileError:
    """The error, with how to go on where ``option`` names a file that keeps rows."""
    # What does not fit fails the same way again.
    if rows is None or isinstance(error, CancelledError | UsageError | BudgetError):
        return error
    go_on = f"{option} {rows} --resume measures what is missing"
    remedy = go_on if error.remedy is None else f"{error.remedy.rstrip('.')}. {go_on}"
    return type(error)(error.cause, file=error.file, setting=error.setting, remedy=remedy)
