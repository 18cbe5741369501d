# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How a command is typed, for what an error suggests to do."""

from __future__ import annotations

import os


def command_line(command: str, *arguments: str | os.PathLike[str], **settings: str | bool) -> str:
    """``moe-mobile COMMAND ARGUMENTS --SETTING VALUE``.

    ``settings``: the value of the option with that name; True: it is a flag.
    """
    words = ["moe-mobile", command, *(os.fspath(one) for one in arguments)]
    for name, value in settings.items():
        words.append("-" * 2 + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return " ".join(words)
