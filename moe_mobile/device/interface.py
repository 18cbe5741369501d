# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the rest of the package may ask of a place where the engine runs."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import pathlib
import subprocess
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from moe_mobile.base.progress import Progress
from moe_mobile.errors import BundleCorruptError, CancelledError, MoeMobileError
from moe_mobile.runner import Runner


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Cores of one kind.

    Attributes:
        max_khz: their highest clock, None if unknown.
        capacity: what they compute at that clock, where the fastest core of the device has 1024
            (the kernel's ``cpu_capacity``); None if the kernel does not say.
    """

    cpus: tuple[int, ...]
    max_khz: int | None
    capacity: int | None = None


@dataclasses.dataclass(frozen=True)
class DeviceFacts:
    """What a device is. Sizes in bytes; None for what is unknown.

    Attributes:
        serial: ``local``, or adb's serial.
        identity: the device's own serial number, and what its Android drew at its first start: the
            same over USB and Wi-Fi, and another one for each device. Of emulators also adb's
            serial.
        kind: ``local`` or ``adb``.
        abi: Android's name: ``arm64-v8a`` or ``x86_64``, among others.
        free_bytes: of the file system that holds bundles.
        clusters: slowest first.
        thermal_status: 0 (none) to 6 (shutdown), as in Android's ``PowerManager``.
        virtual: whether it is a virtual phone.
        limit: how a virtual phone limits its memory: ``hard``, ``soft`` or ``none``.
    """

    serial: str
    identity: str
    kind: str
    model: str
    soc: str
    abi: str
    android_version: str | None
    ram_bytes: int | None
    available_bytes: int | None
    free_bytes: int | None
    page_size: int | None
    clusters: tuple[Cluster, ...]
    thermal_status: int | None
    virtual: bool
    limit: str | None

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class ShellResult:
    """A finished shell script: exit code (128 + n if signal n ended it), and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


class Device(abc.ABC):
    """A place where the engine runs: this machine, or a phone behind adb.

    All methods raise DeviceError if the device is lost or unusable.

    Attributes:
        serial: names it to people and to adb.
        aborted: set once :meth:`abort` was called.
    """

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.aborted = threading.Event()
        self._runners: weakref.WeakSet[Runner] = weakref.WeakSet()
        self._lock = threading.Lock()

    def runner(self, *, cpus: Sequence[int] | None = None) -> Runner:
        """A new ``moe_runner`` process, kept to these cores; sends the program if it is missing.

        Raises UnsupportedError if there is no engine for the device's ABI, CancelledError after
        :meth:`abort`.
        """
        runner = self._start_runner(cpus)
        with self._lock:
            self._runners.add(runner)
        if self.aborted.is_set():
            runner.kill()
        self.check_aborted()
        return runner

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Meanwhile no other command measures on this phone; this machine is left to its user.

        Raises IoError if one does.
        """
        yield

    def check_exclusive(self) -> None:  # noqa: B027
        """Within :meth:`exclusive`, raise IoError if it has ended: a command that was asleep for
        long loses it."""

    def abort(self) -> None:
        """End what is being done with the device, from another thread: that raises some error."""
        self.aborted.set()
        with self._lock:
            for runner in self._runners:
                runner.kill()

    def check_aborted(self) -> None:
        """Raise CancelledError after :meth:`abort`."""
        if self.aborted.is_set():
            raise CancelledError("stopped by the user") from None

    @abc.abstractmethod
    def facts(self) -> DeviceFacts:
        """What the device is, asked again."""

    @abc.abstractmethod
    def shell(self, script: str, *, timeout: float | None = None) -> ShellResult:
        """Run a script with the device's sh; DeviceError if it does not end within ``timeout``
        seconds (default: limits.ANSWER_S) or prints more than limits.OUTPUT_BYTES."""

    @abc.abstractmethod
    def stream(self, script: str) -> subprocess.Popen[bytes]:
        """Start a script, with pipes for input and output. Killing the process ends it there."""

    @abc.abstractmethod
    def _start_runner(self, cpus: Sequence[int] | None) -> Runner:
        """See :meth:`runner`."""

    @abc.abstractmethod
    def place(self, bundle: pathlib.Path, progress: Progress | None = None) -> str:
        """The bundle's folder on the device, after sending what is missing.

        Raises DiskFullError if it does not fit, and the bundle reader's errors.
        """

    @abc.abstractmethod
    def locate(self, bundle: pathlib.Path) -> str:
        """The bundle's folder on the device, as it is; nothing is sent.

        Raises UsageError if it was never sent, and the bundle reader's errors.
        """

    @abc.abstractmethod
    def distrust(self, bundle: pathlib.Path, damaged: BundleCorruptError) -> MoeMobileError:
        """What to raise if some of a bundle's bytes were found damaged: they are mended, or
        every byte is verified, when the bundle is placed next."""
