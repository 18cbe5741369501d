# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""adb's server on this machine: which devices it has, and connections to them."""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import importlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from types import ModuleType

from moe_mobile.base import limits
from moe_mobile.device.lost import LostError, silent
from moe_mobile.device.question import Question, ServerError
from moe_mobile.device.shell_stream import ShellStream
from moe_mobile.errors import DeviceError, did_you_mean

_PORT = "ANDROID_ADB_SERVER_PORT"
_HOST = "ANDROID_ADB_SERVER_HOST"
_READY = "device"
_AMBIGUOUS = "ambiguous"
_NETWORK_SERIAL = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
# What is in a socket when a client is killed is sent again later: keep it small.
_SEND_BUFFER = 1 << 20
_LOCAL_HOSTS = (None, "localhost", "127.0.0.1")
_ANSWER_S = 3.0


@functools.cache
def _adbutils() -> ModuleType:
    """adbutils, imported on first use: its import reads the variables, and fails for a bad port.

    Raises DeviceError for a bad port.
    """
    for variable in (_PORT, _HOST):
        if os.environ.get(variable) == "":  # unset, as adb has it
            del os.environ[variable]
    port = os.environ.get(_PORT, "5037")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise DeviceError(
            f"invalid port {port!r}", setting=_PORT, remedy="Correct or unset that variable"
        )
    return importlib.import_module("adbutils")


def adb_program() -> str:
    """adb of the PATH, else the one inside adbutils. Raises DeviceError if neither runs."""
    adbutils = _adbutils()
    try:
        path: str = adbutils.adb_path()
    except adbutils.AdbError as error:
        raise DeviceError(
            f"no usable adb: {error}",
            remedy="Install Android's platform-tools, or set ADBUTILS_ADB_PATH to the path of adb",
        ) from None
    if not os.access(path, os.X_OK):
        raise DeviceError(
            "no usable adb: this file is not executable",
            file=path,
            remedy="ADBUTILS_ADB_PATH names it: correct or unset that variable",
        )
    return path


def adb_command(*arguments: str) -> list[str]:
    """A command line for adb, to the server that :class:`AdbServer` speaks to.

    adb itself does not read the variable that names the host, and starts no server on another.
    """
    host = _other_host()
    port = os.environ.get(_PORT, "5037")
    return [adb_program(), *(["-H", host] if host else []), "-P", port, *arguments]


def is_network_serial(serial: str) -> bool:
    """Whether it is ``HOST:PORT``, to which adb can connect."""
    return _NETWORK_SERIAL.fullmatch(serial) is not None


def _other_host() -> str | None:
    """Where adb's server is, if it is one that we must not start."""
    host = os.environ.get(_HOST)
    return None if host in _LOCAL_HOSTS else host


class AdbServer:
    """Speaks to adb's server, and starts it if it does not run.

    ``ANDROID_ADB_SERVER_PORT`` and ``ANDROID_ADB_SERVER_HOST`` say where it is. All methods raise
    DeviceError.
    """

    def __init__(self) -> None:
        self._adbutils = _adbutils()
        self._client = self._adbutils.AdbClient()

    def listed(self) -> list[tuple[str, str]]:
        """Serial and state of each device: ``device``, ``offline``, ``unauthorized``, ...

        Ready devices of one serial are ``ambiguous``: adb cannot tell them apart.
        """
        lines = (line.partition("\t") for line in self._ask("host:devices").splitlines())
        rows = [(serial, state) for serial, tab, state in lines if tab]
        number = collections.Counter(serial for serial, _ in rows)
        return [
            (serial, _AMBIGUOUS if state == _READY and number[serial] > 1 else state)
            for serial, state in rows
        ]

    def states(self) -> dict[str, str]:
        """State by serial, see :meth:`listed`. One of several devices with a serial is not ready:
        it could be any of them."""
        found: dict[str, str] = {}
        for serial, state in self.listed():
            if found.get(serial) != _AMBIGUOUS:
                found[serial] = state
        return found

    def require(self, serial: str) -> None:
        """Raise the error of a device that cannot be used; connect to ``HOST:PORT`` first."""
        states = self.states()
        state = states.get(serial)
        if state in (None, "offline") and is_network_serial(serial):
            told = self._connect(serial)
            state = self.states().get(serial)
            if state is None:
                raise DeviceError(
                    told or "adb connect failed",
                    setting=serial,
                    remedy="Is wireless debugging on, and the phone in the same network? "
                    "`adb pair` it once first",
                )
        if state != _READY:
            raise unusable(serial, state, states)

    def wait(self, serial: str, seconds: float) -> bool:
        """Whether the device is ready within that time. One that was joined by another of its
        serial is not any more: which of them stays is unknown."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self.require(serial)
                return True
            except AmbiguousError:
                return False
            except DeviceError:
                time.sleep(0.5)
        return False

    def _connect(self, serial: str) -> str:
        """The output of adb: its exit code does not show success.

        A connection that broke stays offline for minutes, and is "already connected".
        """
        self._ask(f"host:disconnect:{serial}", may_fail=True)
        return self._ask(f"host:connect:{serial}").strip()

    def shell(
        self, serial: str, script: str, *, seconds: float, most: int | None = None
    ) -> ShellStream:
        """Start a script on a device.

        ``seconds``: for it to start, and again for all that is done with the stream before
        :meth:`ShellStream.within` gives it more. ``most``: bytes that it may print, by default
        limits.OUTPUT_BYTES.
        """
        with self._errors(), contextlib.ExitStack() as on_failure:
            question = self._question(limits.SERVER_S)
            on_failure.callback(question.close)
            try:
                question.ask(f"host:transport:{serial}")
                self._start(question, serial, script, seconds)
            except ServerError as error:
                question.close()
                self._require_ready(serial)
                raise self._refused(serial, str(error)) from None
            question.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            on_failure.pop_all()
            return ShellStream(question.socket, seconds, most)

    def _start(self, question: Question, serial: str, script: str, seconds: float) -> None:
        """Over a connection to a device: what is silent from now on is the device."""
        question.within(seconds)
        try:
            question.ask(f"shell,v2,raw:{script}")
        except TimeoutError:
            question.close()
            self._require_ready(serial)
            raise silent(serial, seconds) from None

    def _refused(self, serial: str, answer: str) -> DeviceError:
        """The error of a device that is ready and did not start a shell."""
        if "more than one" in answer:
            return _ambiguous(serial)
        remedy = "Reconnect it, or restart adb's server with `adb kill-server`"
        if answer == "closed":  # to what adb's daemon does not know, and to what it cannot start
            speaks = self._speaks_shell_protocol(serial)
            if speaks is False:
                return LostError(
                    "it does not speak adb's shell protocol, version 2",
                    setting=serial,
                    remedy="Use a phone with Android 7 or newer",
                )
            if speaks is None:
                remedy = (
                    f"It must have Android 7 or newer. If it has: {remedy[0].lower()}{remedy[1:]}"
                )
        return LostError(
            f"it refused to start a shell: {answer[: limits.TOLD]}", setting=serial, remedy=remedy
        )

    def _speaks_shell_protocol(self, serial: str) -> bool | None:
        """By its features; None if adb's server does not tell them."""
        try:
            return "shell_v2" in self._ask(f"host-serial:{serial}:features").split(",")
        except DeviceError:
            return None

    def _require_ready(self, serial: str) -> None:
        """Raise the error of a device's state, unless that is ``device``."""
        state = self.states().get(serial)
        if state != _READY:
            raise unusable(serial, state)

    def _ask(self, question: str, *, may_fail: bool = False) -> str:
        with self._errors(), contextlib.closing(self._question(limits.SERVER_S)) as server:
            try:
                server.ask(question)
            except ServerError:
                if may_fail:
                    return ""
                raise
            return server.text()

    def _question(self, seconds: float) -> Question:
        if (host := _other_host()) is not None:
            self._look(host)
        return Question(self._client.make_connection().conn, seconds)

    def _look(self, host: str) -> None:
        """Raise if nothing answers there: adbutils would start a useless server here."""
        place = f"{host}:{self._client.port}"
        try:
            with socket.socket() as probe:
                probe.settimeout(_ANSWER_S)
                probe.connect((host, self._client.port))
        except (socket.gaierror, UnicodeError):
            raise _no_host(host) from None
        except OSError as error:
            raise DeviceError(
                f"no adb server answers at {place}: {error.strerror or 'it is silent'}",
                setting=_HOST,
                remedy="Start one there that other machines can reach (`adb -a nodaemon server "
                "start`), or unset that variable",
            ) from None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """adbutils starts the server if none answers; failures then become typed errors."""
        adb_program()
        try:
            yield
        except DeviceError:
            raise
        except (self._adbutils.AdbTimeout, TimeoutError, subprocess.TimeoutExpired):
            raise LostError(
                "adb's server does not answer", remedy=_restart("then try again")
            ) from None
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise _failed(error) from None
            raise DeviceError(
                "no usable adb: this file is not a program for this machine",
                file=adb_program(),
                remedy="ADBUTILS_ADB_PATH or PATH names it: correct that variable",
            ) from None
        except (self._adbutils.AdbError, ServerError) as error:
            raise _failed(error) from None
        except ValueError:  # lengths that are not numbers, text that is not UTF-8
            raise DeviceError(
                "the program that answers on adb's port is not an adb server",
                remedy="Correct ANDROID_ADB_SERVER_PORT, or stop the program that uses that port",
            ) from None


def _no_host(host: str) -> DeviceError:
    try:
        socket.getaddrinfo(host.strip("[]"), None, socket.AF_INET6)
    except (OSError, UnicodeError):
        cause, remedy = f"unknown host {host!r}", "Correct or unset that variable"
    else:  # adbutils connects over IPv4 alone
        cause = f"{host!r} has IPv6 addresses only, which are not supported"
        remedy = "Give an IPv4 address, or unset that variable for a server on this machine"
    return DeviceError(cause, setting=_HOST, remedy=remedy)


def _failed(error: Exception) -> LostError:
    return LostError(
        f"adb failed: {error or 'it closed the connection'}",
        remedy=_restart("then `adb devices`"),
    )


def _restart(then: str) -> str:
    host = _other_host()
    where = "" if host is None else f" on {host}, where {_HOST} says it is"
    return f"Run `adb kill-server`{where}, {then}"


def unusable(serial: str, state: str | None, others: Iterable[str] = ()) -> DeviceError:
    """The error of a device in a state other than ``device`` (None: adb does not know it).

    ``others``: serials that adb knows.
    """
    if state == _AMBIGUOUS:
        return _ambiguous(serial)
    cause, remedy = {
        None: (
            "no such device is connected",
            did_you_mean(serial, others, "`moe-mobile devices` lists the connected ones"),
        ),
        "unauthorized": (
            "this device has not authorised this computer",
            "Unlock it and accept the dialog `Allow USB debugging?`; replug it if none appears",
        ),
        "offline": (
            "this device is offline",
            "Replug it, or toggle USB debugging; for Wi-Fi, `adb disconnect` and connect again",
        ),
        "no permissions": (
            "this user may not open the USB device",
            "Install Debian's package android-sdk-platform-tools-common and replug the device",
        ),
    }.get(
        state.partition(" (")[0] if state is not None else None,
        (f"this device is in the state {state!r}", "Boot it into Android, with USB debugging on"),
    )
    return LostError(cause, setting=serial, remedy=remedy)


class AmbiguousError(DeviceError, code=DeviceError.code, exit_code=DeviceError.exit_code):
    """Several devices have the serial. Trying again might reach another one."""


def _ambiguous(serial: str) -> AmbiguousError:
    return AmbiguousError(
        "adb has several devices with this serial number, and cannot tell them apart",
        setting=serial,
        remedy="Unplug all but one. To use several, connect each over Wi-Fi and unplug it "
        "(`adb devices -l` shows its transport id, then `adb -t ID tcpip 5555`, `adb connect "
        "HOST:5555`), and name it HOST:5555",
    )
