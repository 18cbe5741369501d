# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A phone's server: accepts clients, answers requests of its owner, watches its memory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from moe_mobile.base.json_text import json_text
from moe_mobile.errors import DeviceError, MoeMobileError
from moe_mobile.virtual_phone.connection import Connection, Door, Service
from moe_mobile.virtual_phone.hardware import Hardware
from moe_mobile.virtual_phone.linux import drop_privileges
from moe_mobile.virtual_phone.memory import Memory
from moe_mobile.virtual_phone.processes import Processes
from moe_mobile.virtual_phone.settings import SHELL_ID
from moe_mobile.virtual_phone.shell import MOST_DESCRIPTORS, serve_shell
from moe_mobile.virtual_phone.storage import Storage
from moe_mobile.virtual_phone.stream import Stream
from moe_mobile.virtual_phone.sync import serve_sync
from moe_mobile.virtual_phone.wire import Traffic, Wire

_MOST_CONNECTIONS = 16
_REQUEST_SIZE = 1 << 16
# While something runs, its memory is looked at so often (seconds).
_BUSY_INTERVAL = 0.02
_IDLE_INTERVAL = 0.5
# Descriptors that are for the server itself, and for connections.
_RESERVED_DESCRIPTORS = 64
# Passes by itself, once others give something back.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED)


@dataclass(eq=False, kw_only=True)
class Server:
    """Runs inside the phone's root file system.

    Args:
        listener: a bound socket.
        control: the listening socket of the phone's owner.
        supervisor: where to say that the phone wants to be started again.
        init: the socket of process 1; its end is the phone's.
    """

    listener: socket.socket
    control: socket.socket
    supervisor: socket.socket
    init: socket.socket
    traffic: Traffic
    door: Door
    storage: Storage
    hardware: Hardware
    memory: Memory
    processes: Processes

    def __post_init__(self) -> None:
        self._wires: set[Wire] = set()
        self._lock = threading.Lock()
        self._lasting: dict[str, Any] = {}
        self._sessions = 0
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED_DESCRIPTORS
        self._room = threading.Semaphore(max(1, descriptors // MOST_DESCRIPTORS))
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Commands of the phone write to it; open for both, so that it never ends.
        self._requests = os.open("/virtual/requests", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> NoReturn:
        """Serve until process 1 ends or the phone reboots."""
        self.listener.listen(64)
        self.supervisor.send(json_text({"ready": True}).encode())
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        alarm = self.memory.alarm()
        if alarm is not None:
            poll.register(*alarm)
        for source in (self.listener, self.control, self.init, self._requests, self.supervisor):
            poll.register(source, select.POLLIN)
        while True:
            try:
                busy = self.memory.sample() or self._sessions > 0
                interval = _BUSY_INTERVAL if busy else _IDLE_INTERVAL
                for fd, _ in poll.poll(interval * 1000):
                    if alarm is not None and fd == alarm[0]:
                        os.lseek(fd, 0, os.SEEK_SET)  # read again, it is no longer new
                        os.read(fd, 4096)
                    else:
                        self._react(fd)
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                time.sleep(_BUSY_INTERVAL)  # the work is still there then

    def _react(self, fd: int) -> None:
        if fd == self.listener.fileno():
            self._accept()
        elif fd == self.control.fileno():
            self._answer()
        elif fd == self._wake:
            os.eventfd_read(self._wake)
        elif fd == self._requests:
            words = os.read(self._requests, 4096).split()
            if b"clear" in words:
                self.memory.clear_log()
            if b"reboot" in words:
                self._reboot(2.0)
        elif fd == self.init.fileno():
            self.memory.log_end()
            self._reboot(1.0)
        else:  # the supervisor is gone
            os._exit(1)

    def _accept(self) -> None:
        peer, _ = self.listener.accept()
        if len(self._wires) >= _MOST_CONNECTIONS:
            peer.close()
            return
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = Wire(peer, self.traffic)
        with self._lock:
            self._wires.add(wire)

        def serve() -> None:
            drop_privileges(SHELL_ID, SHELL_ID)
            try:
                Connection(wire, self.door, self._service, self._room).run()
            finally:
                peer.close()
                with self._lock:
                    self._wires.discard(wire)

        try:
            threading.Thread(target=serve, daemon=True).start()
        except RuntimeError:  # this user has no more threads
            peer.close()
            with self._lock:
                self._wires.discard(wire)

    def _service(self, kind: str) -> Service | None:
        """What serves a stream; it runs as the shell user, as the thread that asks for it."""
        if kind.split(",")[0] in ("shell", "exec"):
            return self._shell
        return {"sync": _sync, "reboot": self._reboot_service}.get(kind)

    def _shell(self, stream: Stream, kind: str, rest: str) -> None:
        with self._lock:
            self._sessions += 1
        os.eventfd_write(self._wake, 1)
        try:
            serve_shell(stream, kind, rest, self.processes)
        finally:
            with self._lock:
                self._sessions -= 1

    def _reboot_service(self, stream: Stream, kind: str, rest: str) -> None:
        os.write(self._requests, b"reboot\n")

    def _answer(self) -> None:
        peer, _ = self.control.accept()
        with peer, contextlib.suppress(OSError, ValueError):
            peer.settimeout(5)
            changes = json.loads(peer.recv(_REQUEST_SIZE))
            try:
                self.apply(changes)
            except MoeMobileError as error:
                peer.send(json_text({"error": error.as_dict()}).encode())
                return
            peer.send(b"{}")
            if changes.get("reboot") is not None:
                self._reboot(changes["reboot"])

    def apply(self, changes: dict[str, Any]) -> None:
        """Misbehave from now on; the members of settings.Misbehaviour but `reboot`.

        Raises:
            UnsupportedError: this phone cannot.
            DeviceError: there is no process of that name.
        """
        if "full" in changes:
            self.storage.fill("/data", changes["full"])
        again = bool(changes.get("drop_again", False))
        for direction, name in enumerate(("drop_after_received", "drop_after_sent")):
            if name in changes:
                self.traffic.cut_after(direction, changes[name], again=again)
        for name in ("unauthorized", "offline"):
            if name in changes:
                setattr(self.door, name, changes[name])
                self._hang_up()
        for name in ("thermal_status", "battery_level", "charging"):
            if name in changes:
                setattr(self.hardware, name, changes[name])
        if "battery_temperature" in changes:
            self.hardware.battery_c = changes["battery_temperature"]
        self.hardware.update()
        lasting = {"drop_after_received", "drop_after_sent", "drop_again", "reboot", "kill"}
        self._lasting |= {name: value for name, value in changes.items() if name not in lasting}
        if "kill" in changes and not self.memory.kill(changes["kill"]):
            raise DeviceError(
                f"the phone has no process called {changes['kill']!r}",
                setting="kill",
                remedy="`adb shell ps` lists them",
            )

    def _hang_up(self) -> None:
        with self._lock:
            for wire in self._wires:
                wire.close()

    def _reboot(self, seconds: float) -> NoReturn:
        self.supervisor.send(json_text({"reboot": seconds, "misbehaviour": self._lasting}).encode())
        os._exit(0)


def _sync(stream: Stream, kind: str, rest: str) -> None:
    serve_sync(stream)
