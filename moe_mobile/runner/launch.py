# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which ``moe_runner`` is started, and how one elsewhere is."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sysconfig
from collections.abc import Callable, Sequence

from moe_mobile.errors import MoeMobileError, RuntimeFailedError

RUNNER_VARIABLE = "MOE_MOBILE_RUNNER"
"""Environment variable that names another ``moe_runner``."""


def find_runner() -> pathlib.Path:
    """Path of ``moe_runner``: ``$MOE_MOBILE_RUNNER``, else the one installed with this package.

    Raises RuntimeFailedError if there is none.
    """
    override = os.environ.get(RUNNER_VARIABLE)
    if override:
        path = pathlib.Path(override)
        remedy = f"{RUNNER_VARIABLE} names it: correct or unset that variable"
    else:
        path = _installed_runner()
        remedy = (
            "Install the package with its engine: `make venv` in a checkout, or `pip install .`"
        )
    if not path.is_file():
        raise RuntimeFailedError("moe_runner is not installed", file=path, remedy=remedy)
    if not os.access(path, os.X_OK):
        raise RuntimeFailedError("moe_runner is not executable", file=path, remedy=remedy)
    return path


def _installed_runner() -> pathlib.Path:
    import moe_mobile

    # An editable install keeps the Python files in the checkout and the binary in site-packages:
    # look wherever the package may have parts.
    candidates = [pathlib.Path(folder) / "bin" / "moe_runner" for folder in moe_mobile.__path__]
    candidates.append(pathlib.Path(sysconfig.get_path("platlib"), "moe_mobile/bin/moe_runner"))
    return next((path for path in candidates if path.is_file()), candidates[0])


@dataclasses.dataclass(frozen=True)
class Launch:
    """How to start a runner that is not on this machine.

    Attributes:
        command: carries standard input and output to it, and ends with its exit code, which is
            128 + n if signal n ended it.
        place: where it runs, as errors say it.
        work: called with the runner's process id there when it is silent, to tell one that
            computes from one that is stuck: CPU seconds so far, infinity while it waits for the
            flash, None if there is no such process. It may raise DeviceError.
        explain: called when it ended unasked, with its exit code (-n if signal n ended it, None
            if it did not end in time), its last words and its process id there, if it told that;
            the error that says more, or None.
    """

    command: Sequence[str]
    place: str
    work: Callable[[int | None], float | None]
    explain: Callable[[int | None, str, int | None], MoeMobileError | None]
