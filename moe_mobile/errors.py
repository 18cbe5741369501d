# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The errors a user may meet, shared by the whole Python package.

Every error says which file or setting is concerned, what is wrong and what can be done about it.
``code`` and ``exit_code`` are the same in the C++ engine, which knows no devices; the command line
prints the text and exits with the latter.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar


class MoeMobileError(Exception):
    """Base of all typed errors; raise one of the subclasses.

    Args:
        cause: what is wrong, one sentence without a final full stop.
        file: path or name of the file concerned, where there is one.
        setting: name of the setting or argument concerned, where it is no file.
        remedy: what the user can do, where something is known.
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
        return (_rebuild, (type(self), self.cause, self.file, self.setting, self.remedy))

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
) -> MoeMobileError:
    return kind(cause, file=file, setting=setting, remedy=remedy)


class UsageError(MoeMobileError):
    """The arguments make no sense together or on their own."""

    code = "usage"
    exit_code = 2


class UnsupportedError(MoeMobileError):
    """An architecture, option or version this build does not know."""

    code = "unsupported"
    exit_code = 3


class BundleInvalidError(MoeMobileError):
    """A manifest or file breaks the bundle format."""

    code = "bundle_invalid"
    exit_code = 4


class BundleCorruptError(MoeMobileError):
    """Bytes do not match their hash."""

    code = "bundle_corrupt"
    exit_code = 5


class IoError(MoeMobileError):
    """Reading or writing failed."""

    code = "io"
    exit_code = 6


class DiskFullError(IoError):
    """No space (or quota) left where we write."""

    code = "disk_full"
    exit_code = 7


class ReadOnlyError(IoError):
    """The target cannot be written to: a read-only file system or missing permission."""

    code = "read_only"
    exit_code = 8


class BudgetError(MoeMobileError):
    """The memory budget is too small."""

    code = "budget"
    exit_code = 9


class RuntimeFailedError(MoeMobileError):
    """ExecuTorch failed."""

    code = "runtime"
    exit_code = 10


class CheckpointError(MoeMobileError):
    """The source checkpoint is broken or incomplete."""

    code = "checkpoint"
    exit_code = 11


class DeviceError(MoeMobileError):
    """No usable device: none there, not authorised, offline, or adb itself does not work."""

    code = "device"
    exit_code = 12


class KilledError(MoeMobileError):
    """The system killed the engine, mostly for lack of memory (Android's low-memory killer)."""

    code = "killed"
    exit_code = 13


class CancelledError(MoeMobileError):
    """The user stopped the work."""

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

    Of file, setting and remedy "" stands for none.
    """
    kind = BY_CODE.get(code, MoeMobileError)
    return kind(cause, file=file or None, setting=setting or None, remedy=remedy or None)


def write_error(error: OSError, path: str | os.PathLike[str]) -> IoError:
    """The typed error for an ``OSError`` met while writing ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            "no space left on the device", file=path, remedy="Free some space and run it again"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnlyError(
            f"not writable: {error.strerror}", file=path, remedy="Choose a writable place"
        )
    return IoError(f"writing failed: {error.strerror or error}", file=path, remedy=_remedy(error))


def read_error(error: OSError, path: str | os.PathLike[str]) -> IoError:
    """The typed error for an ``OSError`` met while reading ``path``."""
    return IoError(f"reading failed: {error.strerror or error}", file=path, remedy=_remedy(error))


def _remedy(error: OSError) -> str:
    """As the engine says it."""
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    return "Check the path" if missing else "Check the path, its permissions and the disk"
