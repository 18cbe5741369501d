# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The typed errors of the whole package.

Each says what is wrong, in which file or setting, and what to do. Most also derive from the
built-in exception that people catch::

    MoeMobileError                          base of all
      UsageError          (ValueError)      arguments that are wrong or do not fit each other
      UnsupportedError    (NotImplementedError)  a model, option or version this build cannot handle
      BundleInvalidError  (ValueError)      a bundle that breaks its format
      BundleCorruptError  (ValueError)      bytes that do not match their hash
      CheckpointError     (ValueError)      a source checkpoint that is broken or incomplete
      IoError             (OSError)         reading or writing failed
        DiskFullError     (OSError)         errno is ENOSPC
        ReadOnlyError     (PermissionError) the place cannot be written
      BudgetError         (MemoryError)     the memory budget is too small
      RuntimeFailedError  (RuntimeError)    ExecuTorch or the engine's process failed
      KilledError         (RuntimeError)    the system killed the engine
      DeviceError         (ConnectionError) no usable phone
      CancelledError                        the work was stopped

``CancelledError`` is not a KeyboardInterrupt: ``except Exception`` must catch it, because a host
that cancels a generation is not about to exit.

``code`` and ``exit_code`` are those of the C++ engine, which has no devices. The command line
prints the text and ends with the exit code (docs/cli.md).

An ``except OSError`` or ``except ValueError`` around our own code catches these errors as well:
:func:`read_error` and :func:`write_error` return a typed error as it is.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar


class MoeMobileError(Exception):
    """Base of all typed errors; raise one of the subclasses.

    Args:
        cause: what is wrong, one sentence without a final full stop.
        file: path or name of the file concerned, if there is one.
        setting: name of the setting or argument concerned, if it is not a file.
        remedy: what the user can do, if that is known.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        cause: str,
        *,
        file: str | os.PathLike[str] | None = None,
        setting: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.cause = cause
        self.file = None if file is None else os.fspath(file)
        self.setting = setting
        self.remedy = remedy
        super().__init__(cause)

    def __str__(self) -> str:
        place = self.setting if self.file is None else self.file
        text = self.cause if place is None else f"{place}: {self.cause}"
        return text if self.remedy is None else f"{text}. {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would otherwise get lost between processes.
        number = self.errno if isinstance(self, OSError) else None
        return (_rebuild, (type(self), self.cause, self.file, self.setting, self.remedy, number))

    def as_dict(self) -> dict[str, str | int | None]:
        """The error as a JSON-ready object with the members the engine's error objects have."""
        return {
            "code": self.code,
            "file": self.file,
            "setting": self.setting,
            "cause": self.cause,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


def _rebuild(
    kind: type[MoeMobileError],
    cause: str,
    file: str | None,
    setting: str | None,
    remedy: str | None,
    number: int | None,
) -> MoeMobileError:
    error = kind(cause, file=file, setting=setting, remedy=remedy)
    if isinstance(error, OSError):
        error.errno = number
    return error


class _SystemError(MoeMobileError, OSError):
    """What fills in the attributes that code for OSError looks at."""

    number: ClassVar[int | None] = None

    def __init__(
        self,
        cause: str,
        *,
        file: str | os.PathLike[str] | None = None,
        setting: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(cause, file=file, setting=setting, remedy=remedy)
        self.errno = self.number
        self.strerror = cause
        self.filename = self.file


class UsageError(MoeMobileError, ValueError):
    """An argument is wrong, or arguments do not fit each other."""

    code = "usage"
    exit_code = 2


class UnsupportedError(MoeMobileError, NotImplementedError):
    """A model, option or version that this build cannot handle."""

    code = "unsupported"
    exit_code = 3


class BundleInvalidError(MoeMobileError, ValueError):
    """A manifest or file breaks the bundle format."""

    code = "bundle_invalid"
    exit_code = 4


class BundleCorruptError(MoeMobileError, ValueError):
    """Bytes do not match their hash."""

    code = "bundle_corrupt"
    exit_code = 5


class IoError(_SystemError):
    """Reading or writing failed. ``errno`` is the system's, if it gave one."""

    code = "io"
    exit_code = 6


class DiskFullError(IoError):
    """No space or quota is left where we write."""

    number = errno.ENOSPC
    code = "disk_full"
    exit_code = 7


class ReadOnlyError(IoError, PermissionError):
    """The target cannot be written: a read-only file system, or a missing permission."""

    number = errno.EACCES
    code = "read_only"
    exit_code = 8


class BudgetError(MoeMobileError, MemoryError):
    """The memory budget is too small."""

    code = "budget"
    exit_code = 9


class RuntimeFailedError(MoeMobileError, RuntimeError):
    """ExecuTorch, or the process that runs the engine, failed."""

    code = "runtime"
    exit_code = 10


class CheckpointError(MoeMobileError, ValueError):
    """The source checkpoint is broken or incomplete."""

    code = "checkpoint"
    exit_code = 11


class DeviceError(_SystemError, ConnectionError):
    """No usable device: none is connected, not authorised, offline, or adb does not work."""

    code = "device"
    exit_code = 12


class KilledError(MoeMobileError, RuntimeError):
    """The system killed the engine, mostly for lack of memory (Android's low-memory killer)."""

    code = "killed"
    exit_code = 13


class CancelledError(MoeMobileError):
    """The work was stopped on request."""

    code = "cancelled"
    exit_code = 130


_ALL: tuple[type[MoeMobileError], ...] = (
    UsageError,
    UnsupportedError,
    BundleInvalidError,
    BundleCorruptError,
    IoError,
    DiskFullError,
    ReadOnlyError,
    BudgetError,
    RuntimeFailedError,
    CheckpointError,
    DeviceError,
    KilledError,
    CancelledError,
)

BY_CODE: dict[str, type[MoeMobileError]] = {kind.code: kind for kind in _ALL}
"""Error class of each code, for turning the engine's error objects into exceptions."""


def from_code(code: str, file: str, cause: str, remedy: str, setting: str = "") -> MoeMobileError:
    """The typed error for what the engine reported; an unknown code gives the base class.

    An empty file, setting or remedy means that there is none.
    """
    kind = BY_CODE.get(code, MoeMobileError)
    return kind(cause, file=file or None, setting=setting or None, remedy=remedy or None)


def write_error(error: OSError, path: str | os.PathLike[str]) -> MoeMobileError:
    """The typed error for an ``OSError`` met while writing ``path``; one of ours stays as it is."""
    if isinstance(error, MoeMobileError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        typed: IoError = DiskFullError(
            "no space left on the device", file=path, remedy="Free some space and run it again"
        )
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        typed = ReadOnlyError(
            f"not writable: {error.strerror}", file=path, remedy="Choose a writable place"
        )
    else:
        typed = IoError(
            f"writing failed: {error.strerror or error}", file=path, remedy=_remedy(error)
        )
    typed.errno = error.errno
    return typed


def read_error(error: OSError, path: str | os.PathLike[str]) -> MoeMobileError:
    """The typed error for an ``OSError`` met while reading ``path``; one of ours stays as it is."""
    if isinstance(error, MoeMobileError):
        return error
    typed = IoError(f"reading failed: {error.strerror or error}", file=path, remedy=_remedy(error))
    typed.errno = error.errno
    return typed


def _remedy(error: OSError) -> str:
    """As the engine says it."""
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    return "Check the path" if missing else "Check the path, its permissions and the disk"
