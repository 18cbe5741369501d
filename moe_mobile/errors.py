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
      BudgetError         (MemoryError)     the memory budget, or memory itself, is too small
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

import difflib
import errno
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

BY_CODE: dict[str, type[MoeMobileError]] = {}
"""Error class of each code, for turning the engine's error objects into exceptions."""


_MOST_TEXT = 4096
"""Characters of a cause or remedy. They quote what files say, which may be millions."""

# Longer than any part of a path.
_LONG_WORD = re.compile(r"[^\s/]{256,}")
_LEFT_OF_WORD = 200


def shortened(text: str) -> str:
    """The text without the middle of its longest words, and without its own if it is still long."""
    words = _LONG_WORD.sub(lambda word: _without_middle(word[0], _LEFT_OF_WORD), text)
    return _without_middle(words, _MOST_TEXT)


def _without_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    head = most * 3 // 4
    return f"{text[:head]}...{text[head + 3 - most :]}"


class MoeMobileError(Exception):
    """Base of all typed errors; raise one of the subclasses.

    Args:
        cause: what is wrong, one sentence without a final full stop. Like the remedy it is
            shortened if it quotes something huge.
        file: path or name of the file concerned, if there is one.
        setting: name of the setting or argument concerned, if it is not a file.
        remedy: what the user can do, if that is known.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    _errno: ClassVar[int | None] = None

    def __init_subclass__(
        cls, *, code: str = "error", exit_code: int = 1, errno: int | None = None
    ) -> None:
        cls.code, cls.exit_code, cls._errno = code, exit_code, errno
        BY_CODE.setdefault(code, cls)  # a subclass may share the code of its base

    def __init__(
        self,
        cause: str,
        *,
        file: str | os.PathLike[str] | None = None,
        setting: str | None = None,
        remedy: str | None = None,
    ) -> None:
        cause = shortened(cause)
        self.cause = cause
        self.file = None if file is None else os.fspath(file)
        self.setting = setting
        self.remedy = None if remedy is None else shortened(remedy)
        super().__init__(cause)
        if isinstance(self, OSError):
            _fill(self, self._errno, cause, self.file)

    def __str__(self) -> str:
        place = self.setting if self.file is None else self.file
        text = self.cause if place is None else f"{place}: {self.cause}"
        return text if self.remedy is None else f"{text}. {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would otherwise get lost between processes.
        return (_rebuild, (type(self), self._parts(), getattr(self, "errno", None)))

    def replaced(self, **parts: str | None) -> MoeMobileError:
        """The same error with another cause, file, setting or remedy."""
        return _rebuild(type(self), self._parts() | parts, getattr(self, "errno", None))

    def as_dict(self) -> dict[str, str | int | None]:
        """The error as a JSON-ready object with the members the engine's error objects have."""
        return {"code": self.code, **self._parts(), "exit_code": self.exit_code}

    def _parts(self) -> dict[str, str | None]:
        parts = ("file", "setting", "cause", "remedy")
        return {name: getattr(self, name) for name in parts}


def _fill(error: OSError, number: int | None, cause: str, file: str | None) -> None:
    """Set what code for OSError looks at."""
    error.errno, error.strerror, error.filename = number, cause, file


def _rebuild(
    kind: type[MoeMobileError], parts: Mapping[str, Any], number: int | None
) -> MoeMobileError:
    error = kind(**parts)
    if isinstance(error, OSError):
        error.errno = number
    return error


class UsageError(MoeMobileError, ValueError, code="usage", exit_code=2):
    """An argument is wrong, or arguments do not fit each other."""


class UnsupportedError(MoeMobileError, NotImplementedError, code="unsupported", exit_code=3):
    """A model, option or version that this build cannot handle."""


class BundleInvalidError(MoeMobileError, ValueError, code="bundle_invalid", exit_code=4):
    """A manifest or file breaks the bundle format."""


class BundleCorruptError(MoeMobileError, ValueError, code="bundle_corrupt", exit_code=5):
    """Bytes do not match their hash."""


class IoError(MoeMobileError, OSError, code="io", exit_code=6):
    """Reading or writing failed. ``errno`` is the system's, if it gave one."""


class DiskFullError(IoError, code="disk_full", exit_code=7, errno=errno.ENOSPC):
    """No space or quota is left where we write."""


class ReadOnlyError(IoError, PermissionError, code="read_only", exit_code=8, errno=errno.EACCES):
    """The target cannot be written: a read-only file system, or a missing permission."""


class BudgetError(MoeMobileError, MemoryError, code="budget", exit_code=9):
    """The memory budget is too small, or there is not enough memory."""


class RuntimeFailedError(MoeMobileError, RuntimeError, code="runtime", exit_code=10):
    """ExecuTorch, or the process that runs the engine, failed."""


class CheckpointError(MoeMobileError, ValueError, code="checkpoint", exit_code=11):
    """The source checkpoint is broken or incomplete."""


class DeviceError(MoeMobileError, ConnectionError, code="device", exit_code=12):
    """No usable device: none is connected, it is not authorised, offline or silent, prints without
    end or answers oddly, or adb does not work."""


class KilledError(MoeMobileError, RuntimeError, code="killed", exit_code=13):
    """The system killed the engine, mostly for lack of memory (Android's low-memory killer)."""


class CancelledError(MoeMobileError, code="cancelled", exit_code=130):
    """The work was stopped on request."""


def from_code(code: str, file: str, cause: str, remedy: str, setting: str = "") -> MoeMobileError:
    """The typed error for what the engine reported; an unknown code gives the base class.

    An empty file, setting or remedy means that there is none.
    """
    kind = BY_CODE.get(code, MoeMobileError)
    return kind(cause, file=file or None, setting=setting or None, remedy=remedy or None)


def did_you_mean(word: str, known: Iterable[str], remedy: str, within: str = "") -> str:
    """The remedy for a wrong word, after a question if one of the known words is much like it.

    ``within``: what stands before the word, such as its folder.
    """
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1)
    return f"Did you mean {within + names[found[0]]!r}? {remedy}" if found else remedy


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
            f"writing failed: {error.strerror or error}", file=path, remedy=_remedy(error, path)
        )
    typed.errno = error.errno
    return typed


def read_error(error: OSError, path: str | os.PathLike[str]) -> MoeMobileError:
    """The typed error for an ``OSError`` met while reading ``path``; one of ours stays as it is."""
    if isinstance(error, MoeMobileError):
        return error
    typed = IoError(
        f"reading failed: {error.strerror or error}", file=path, remedy=_remedy(error, path)
    )
    typed.errno = error.errno
    return typed


def _remedy(error: OSError, path: str | os.PathLike[str]) -> str:
    """As the engine says it, and asks for a file next to a missing one that is called alike."""
    if error.errno == errno.ENOENT:
        name = os.path.basename(path)
        alike = [other for other in _names_next_to(path) if _is_like(*_stems(name, other))]
        return did_you_mean(name, alike, "Check the path")
    missing = error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    return "Check the path" if missing else "Check the path, its permissions and the disk"


def _stems(one: str, other: str) -> tuple[str, str]:
    """Two names without extensions: of one kind are many files that have nothing in common."""
    while True:
        stems = os.path.splitext(one), os.path.splitext(other)
        if not all(extension for _, extension in stems):
            return one, other
        one, other = stems[0][0], stems[1][0]


def _is_like(one: str, other: str) -> bool:
    return bool(difflib.get_close_matches(one.lower(), [other.lower()]))


def _names_next_to(path: str | os.PathLike[str]) -> list[str]:
    try:
        return os.listdir(os.path.dirname(path) or os.curdir)
    except (OSError, ValueError):
        return []
