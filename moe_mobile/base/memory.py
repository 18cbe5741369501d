# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory that is left, and work that there was not enough for."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import resource
import sys
from collections.abc import Iterator

from moe_mobile.errors import BudgetError, IoError, MoeMobileError

REMEDY = "Close other programs, raise a limit on memory, or use a machine with more"

# What libraries say: PyTorch, the standard library of C++, and pyo3 (Rust) of an object that Python
# could not make.
_SAID = re.compile(
    "can't allocate memory|cannot allocate memory|out of memory|bad_alloc|PyObject pointer is null",
    re.IGNORECASE,
)


def available_memory() -> int:
    """Bytes that this process can still take: as the engine counts them, within its own limit
    (``ulimit -v``). More than any machine has if the system does not tell."""
    from moe_mobile import _native

    available = sys.maxsize
    with contextlib.suppress(IoError):
        available = _native.available_memory()
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return available
    pages = int(pathlib.Path("/proc/self/statm").read_text("ascii").split()[0])
    return max(0, min(available, limit - pages * os.sysconf("SC_PAGE_SIZE")))


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust failed in a way that it did not expect. The class is no Exception,
    and has no module to import it from."""
    return type(error).__name__ == "PanicException"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, and no typed error says so yet."""
    if isinstance(error, MoeMobileError):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    says = isinstance(error, RuntimeError) or is_panic(error)
    return isinstance(error, MemoryError) or (says and bool(_SAID.search(str(error))))


def out_of_memory(
    work: str, file: str | os.PathLike[str] | None = None, remedy: str = REMEDY
) -> BudgetError:
    """The typed error; ``work``: what was to be done, such as "read it"."""
    return BudgetError(f"there is not enough memory to {work}", file=file, remedy=remedy)


@contextlib.contextmanager
def memory_to(
    work: str, file: str | os.PathLike[str] | None = None, remedy: str = REMEDY
) -> Iterator[None]:
    """Errors in the context that come of too little memory are those of :func:`out_of_memory`."""
    try:
        yield
    except BaseException as error:
        if is_out_of_memory(error):
            raise out_of_memory(work, file, remedy) from error
        raise
